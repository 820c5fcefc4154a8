"""Log probabilities of tokens, computed only for the rows of requests that want them."""

import math
from collections.abc import Sequence

import numpy as np

from vram_llm.engine.request import Likelihood, TokenCandidate
from vram_llm.engine.sampling.numpy_sampler import Logits
from vram_llm.engine.sampling.sampler import Candidates
from vram_llm.llama.vocab import Vocab

LEAST = -9999.0  # replaces minus infinity, which JSON cannot express


def likelihood(vocab: Vocab, logits: Logits, token: int, n_top: int) -> Likelihood:
    """The likelihood of `token` in a row of logits, with those of the `n_top` most likely tokens."""
    best = logits.max()
    log_total = float(best) + float(np.log(np.exp(logits - best).sum(dtype=np.float64)))

    def candidate(t: int) -> TokenCandidate:
        return TokenCandidate(t, vocab.spelling(t), max(float(logits[t]) - log_total, LEAST))

    return Likelihood(candidate(token), tuple(candidate(t) for t in _best(logits, n_top)))


def sampled_likelihood(vocab: Vocab, candidates: Candidates, token: int, n_top: int) -> Likelihood:
    """The likelihood of `token` among the candidates that samplers left, with the `n_top` best of them."""

    def candidate(t: int, p: float) -> TokenCandidate:
        return TokenCandidate(t, vocab.spelling(t), math.log(p) if p > 0 else LEAST)

    best = sorted(candidates.items(), key=lambda pair: (-pair[1], pair[0]))[:n_top]
    top = tuple(candidate(t, p) for t, p in best if p > 0)
    return Likelihood(candidate(token, candidates.get(token, 0.0)), top)


def unpredicted(vocab: Vocab, token: int) -> Likelihood:
    """The likelihood of a prompt's first token, which no row predicts."""
    return Likelihood(TokenCandidate(token, vocab.spelling(token), None))


def _best(logits: Logits, n: int) -> Sequence[int]:
    if n == 0:
        return ()
    n = min(n, len(logits))
    tokens = np.argpartition(logits, -n)[-n:]
    order = np.lexsort((tokens, -logits[tokens]))  # of equals, the lower id first, like arg max
    return [int(token) for token in tokens[order]]
