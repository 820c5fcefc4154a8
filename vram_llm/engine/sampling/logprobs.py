"""How likely tokens were, told only for the rows that are asked about."""

from collections.abc import Sequence

import numpy as np

from vram_llm.engine.request import Candidate, Likelihood
from vram_llm.engine.sampling.numpy_sampler import Logits
from vram_llm.llama.vocab import Vocab

LEAST = -9999.0  # told in place of minus infinity, which JSON cannot write


def likelihood(vocab: Vocab, logits: Logits, token: int, n_top: int) -> Likelihood:
    """Of `token` in a row of logits, with the `n_top` most likely ones."""
    best = logits.max()
    log_total = float(best) + float(np.log(np.exp(logits - best).sum(dtype=np.float64)))

    def candidate(t: int) -> Candidate:
        return Candidate(t, vocab.spelling(t), max(float(logits[t]) - log_total, LEAST))

    return Likelihood(candidate(token), tuple(candidate(t) for t in _best(logits, n_top)))


def unpredicted(vocab: Vocab, token: int) -> Likelihood:
    """Of a prompt's first token."""
    return Likelihood(Candidate(token, vocab.spelling(token), None))


def _best(logits: Logits, n: int) -> Sequence[int]:
    if n == 0:
        return ()
    n = min(n, len(logits))
    places = np.argpartition(logits, -n)[-n:]
    order = np.lexsort((places, -logits[places]))  # of equals, the lower id first: as arg max takes it
    return [int(token) for token in places[order]]
