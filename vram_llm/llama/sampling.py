"""Chains of llama.cpp's own samplers."""

import ctypes
import random
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import starmap
from typing import TYPE_CHECKING, Any

from vram_llm.llama.bindings import C
from vram_llm.planner.types import MOST_BIASED

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MIN_TEMPERATURE = 1e-5  # below it sampling is greedy, and llama.cpp's division can overflow
MIROSTAT_M = 100  # tokens from which version 1 estimates token frequencies, as in its paper
_SEEDS = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED, for a random seed: every smaller number is a seed
MOST_TOP_K = 1024  # on a device: llama.cpp aborts if there are fewer tokens than k
MOST_MIN_P = 0.9  # on a device: it keeps tokens above the threshold, which the best token may miss
_candidate_pointer = ctypes.POINTER(C.llama_token_data)


@cache
def _numpy() -> Any:
    """numpy, imported at the first call: dry runs make chains, and need none of it."""
    import numpy

    return numpy


@cache
def _candidate_type() -> Any:
    """llama_token_data as a type of numpy."""
    np = _numpy()
    return np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def seed_of(seed: int | None) -> int:
    """`seed` in llama.cpp's range; None draws a random one."""
    return random.randrange(_SEEDS) if seed is None else seed % _SEEDS


class DrySampler:
    """A sampler against repeated phrases, to be copied into chains.

    llama.cpp searches the whole vocabulary for each breaker; a copy does not.
    """

    def __init__(
        self,
        vocab: int,
        *,
        multiplier: float,
        base: float,
        allowed_length: int,
        last_n: int,
        breakers: Iterable[str],
    ) -> None:
        texts = [text.encode("utf-8", "replace") for text in breakers]
        self._sampler = C.llama_sampler_init_dry(
            vocab,
            multiplier,
            base,
            allowed_length,
            last_n,
            (ctypes.c_char_p * len(texts))(*texts),
            len(texts),
        )

    def copy(self) -> Any:
        """A copy without history."""
        return C.llama_sampler_clone(self._sampler)

    def close(self) -> None:
        """Free it. Once only."""
        C.llama_sampler_free(self._sampler)


class SamplerChain:
    """Samplers that transform a row of logits in the order they were added; the last one samples a token.

    Methods: more than twenty, because each sampler of llama.cpp has one that adds it.
    """

    def __init__(self, n_vocab: int) -> None:
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        self._n_vocab = n_vocab

    def _add(self, sampler: object) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    def bias(self, biases: Mapping[int, float]) -> None:
        """Add to the logits of some tokens."""
        self.bias_by((C.llama_logit_bias * len(biases))(*starmap(C.llama_logit_bias, biases.items())))

    def bias_by(self, array: Any) -> None:
        """`bias` by an array of llama_logit_bias, which is copied."""
        self._add(C.llama_sampler_init_logit_bias(self._n_vocab, len(array), array))

    def penalties(self, last_n: int, repeat: float, frequency: float, presence: float) -> None:
        """Lower the logits of the last `last_n` sampled tokens."""
        self._add(C.llama_sampler_init_penalties(self._n_vocab, last_n, repeat, frequency, presence))

    def dry(self, dry: DrySampler, seen: Iterable[int]) -> None:
        """Lower the logits of tokens that would continue a repetition; `seen` are the tokens so far."""
        sampler = dry.copy()
        for token in seen:
            C.llama_sampler_accept(sampler, token)
        self._add(sampler)

    def top_n_sigma(self, n: float) -> None:
        """Keep tokens within `n` standard deviations of the best logit."""
        self._add(C.llama_sampler_init_top_n_sigma(n))

    def top_k(self, k: int) -> None:
        """Keep the `k` best tokens."""
        self._add(C.llama_sampler_init_top_k(k))

    def typical(self, p: float, min_keep: int = 1) -> None:
        """Keep the most typical tokens that make up `p`, and at least `min_keep`."""
        self._add(C.llama_sampler_init_typical(p, min_keep))

    def top_p(self, p: float, min_keep: int = 1) -> None:
        """Keep the best tokens that make up `p`, and at least `min_keep`."""
        self._add(C.llama_sampler_init_top_p(p, min_keep))

    def min_p(self, p: float, min_keep: int = 1) -> None:
        """Keep tokens with at least `p` times the probability of the best, and at least `min_keep`."""
        self._add(C.llama_sampler_init_min_p(p, min_keep))

    def xtc(self, probability: float, threshold: float, seed: int, min_keep: int = 1) -> None:
        """With `probability`, drop all tokens above `threshold` except the least likely of them."""
        self._add(C.llama_sampler_init_xtc(probability, threshold, min_keep, seed))

    def temperature(self, temperature: float) -> None:
        """Divide the logits."""
        self._add(C.llama_sampler_init_temp(temperature))

    def dynamic_temperature(self, temperature: float, most_change: float, exponent: float) -> None:
        """Divide the logits by a temperature that grows with the entropy of the candidates."""
        self._add(C.llama_sampler_init_temp_ext(temperature, most_change, exponent))

    def adaptive_p(self, target: float, decay: float, seed: int) -> None:
        """Sample tokens whose probabilities are near `target` on average."""
        self._add(C.llama_sampler_init_adaptive_p(target, decay, seed))

    def infill(self, vocab: int) -> None:
        """Merge tokens that begin alike and prefer an end, as llama.cpp does to fill gaps in code.

        It takes time for each pair of candidates, and aborts without an end-of-sequence token.
        """
        self._add(C.llama_sampler_init_infill(vocab))

    def greedy(self) -> None:
        """Sample the best token."""
        self._add(C.llama_sampler_init_greedy())

    def draw(self, seed: int) -> None:
        """Sample by probability."""
        self._add(C.llama_sampler_init_dist(seed))

    def mirostat(self, version: int, tau: float, eta: float, seed: int) -> None:
        """Sample so that surprise stays near `tau` bits; `version` is 1 or 2."""
        if version == 1:
            self._add(C.llama_sampler_init_mirostat(self._n_vocab, seed, tau, eta, MIROSTAT_M))
        else:
            self._add(C.llama_sampler_init_mirostat_v2(seed, tau, eta))

    def keep_token_only(self) -> None:
        """Let an attached chain copy only its sampled token to the host."""
        self._add(C.llama_sampler_init(ctypes.byref(_TOKEN_ONLY), None))

    @property
    def handle(self) -> Any:
        """The llama_sampler. Once it is attached, only `accept` and `copy_state` may be called."""
        return self._chain

    @property
    def is_on_device(self) -> bool:
        """Whether the device computes all samplers of an attached chain."""
        last = C.llama_sampler_chain_get(self._chain, C.llama_sampler_chain_n(self._chain) - 2)
        return bool(C.llama_sampler_name(last).startswith(b"+"))

    def accept(self, token: int) -> None:
        """Remember a token that was sampled elsewhere; the random number drawn for it counts as used."""
        C.llama_sampler_accept(self._chain, token)

    def copy_state(self, other: "SamplerChain") -> None:
        """Copy the state of `other`, a chain of the same samplers with the same parameters."""
        C.llama_sampler_copy(other._chain, self._chain)

    def sample(self, ctx: int, row: int) -> int:
        """Sample from output row `row` of the last decode, and remember the token."""
        return int(C.llama_sampler_sample(self._chain, ctx, row))

    def sample_among(self, tokens: "npt.NDArray[np.integer]", logits: "npt.NDArray[np.float32]") -> int:
        """Sample one of `tokens`, whose logits are in the same order, and remember it."""
        array, _kept = self._applied(tokens, logits)
        token = int(array.data[array.selected].id)
        C.llama_sampler_accept(self._chain, token)
        return token

    def sample_with_candidates(
        self, tokens: "npt.NDArray[np.integer]", logits: "npt.NDArray[np.float32]"
    ) -> tuple[int, dict[int, float]]:
        """As `sample_among`, with the tokens that the samplers left and their probabilities.

        A chain that samples the best token gives it the probability 1.
        """
        array, _kept = self._applied(tokens, logits)
        token = int(array.data[array.selected].id)
        left = (
            _numpy()
            .ctypeslib.as_array(
                ctypes.cast(array.data, ctypes.POINTER(ctypes.c_uint8)),
                (array.size * ctypes.sizeof(C.llama_token_data),),
            )
            .view(_candidate_type())
        )
        likely = left[left["p"] > 0]
        candidates = dict(zip(likely["id"].tolist(), likely["p"].tolist(), strict=True))
        C.llama_sampler_accept(self._chain, token)
        return token, candidates or {token: 1.0}

    def resume(self, token: int) -> None:
        """Remember a token that another chain with the same parameters sampled, and draw as it did for it."""
        np = _numpy()
        self.sample_among(np.array([token]), np.zeros(1, np.float32))

    def filtered(self, logits: "npt.NDArray[np.float32]") -> dict[int, float]:
        """Tokens that pass a chain which has only filters, and their logits after it."""
        array, _kept = self._applied(_numpy().arange(len(logits)), logits)
        return {int(array.data[i].id): float(array.data[i].logit) for i in range(array.size)}

    def _applied(
        self, tokens: "npt.NDArray[np.integer]", logits: "npt.NDArray[np.float32]"
    ) -> tuple[Any, object]:
        """The candidates after the chain, and what keeps their memory alive. XTC moves `data` on."""
        candidates = _numpy().zeros(len(tokens), _candidate_type())
        candidates["id"], candidates["logit"] = tokens, logits
        array = C.llama_token_data_array(
            data=candidates.ctypes.data_as(_candidate_pointer), size=len(tokens), selected=-1, sorted=False
        )
        C.llama_sampler_apply(self._chain, ctypes.byref(array))
        return array, candidates

    def close(self) -> None:
        """Free the chain. Once only."""
        C.llama_sampler_free(self._chain)


@cache
def _biases_of_first(n_tokens: int) -> Any:
    """A bias for each of the first tokens, made once: a dry run makes hundreds of chains."""
    return (C.llama_logit_bias * n_tokens)(*(C.llama_logit_bias(token, 1.0) for token in range(n_tokens)))


def largest_chain(n_vocab: int) -> SamplerChain:
    """The chain that needs the most memory on a device: it has the most rows of vocabulary length."""
    chain = SamplerChain(n_vocab)
    chain.bias_by(_biases_of_first(min(n_vocab, MOST_BIASED)))
    chain.top_p(0.5)
    chain.min_p(0.5)
    chain.temperature(0.5)
    chain.draw(0)
    chain.keep_token_only()
    return chain


def _drop_all_but_token(_sampler: object, _ctx: object, _graph: object, data: Any) -> None:
    outputs = data.contents
    outputs.logits = outputs.probs = outputs.candidates = None


# llama.cpp copies all outputs of a chain to the host: without a top-k, logits and probabilities of the whole
# vocabulary (llm_graph_context::build_sampling, llama_context::decode)
_TOKEN_ONLY = C.llama_sampler_i(
    name=C.llama_sampler_i_name(lambda _: b"token-only"),
    apply=C.llama_sampler_i_apply(lambda *_: None),
    backend_init=C.llama_sampler_i_backend_init(lambda *_: True),
    backend_apply=C.llama_sampler_i_backend_apply(_drop_all_but_token),
)
