"""The next token from a row of logits, by llama.cpp's own samplers."""

import random
from collections.abc import Mapping

from vram_llm.llama.bindings import C

PENALTY_LAST_N = 1024  # generated tokens that penalties look back on
MIN_TEMPERATURE = 1e-5  # below it only the best token has a chance, and llama.cpp's division can overflow
_SEEDS = (
    0xFFFFFFFF  # LLAMA_DEFAULT_SEED, which llama.cpp takes for "draw one": every smaller number is a seed
)


class SamplerChain:
    """llama.cpp's samplers in its usual order: bias, penalties, top-k, top-p, min-p, temperature, draw.

    A temperature of 0 takes the most likely token that bias and penalties leave. Penalties count
    generated tokens, not the prompt's. `seed` None draws a new one.
    """

    def __init__(
        self,
        n_vocab: int,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repeat_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        logit_bias: Mapping[int, float] | None,
        seed: int | None,
    ) -> None:
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if logit_bias:
            biases = (C.llama_logit_bias * len(logit_bias))(
                *(C.llama_logit_bias(token, bias) for token, bias in logit_bias.items())
            )
            self._add(C.llama_sampler_init_logit_bias(n_vocab, len(logit_bias), biases))
        if repeat_penalty != 1 or presence_penalty or frequency_penalty:
            self._add(
                C.llama_sampler_init_penalties(
                    n_vocab, PENALTY_LAST_N, repeat_penalty, frequency_penalty, presence_penalty
                )
            )
        if temperature < MIN_TEMPERATURE:
            self._add(C.llama_sampler_init_greedy())
            return
        if top_k > 0:
            self._add(C.llama_sampler_init_top_k(top_k))
        if top_p < 1:
            self._add(C.llama_sampler_init_top_p(top_p, 1))
        if min_p > 0:
            self._add(C.llama_sampler_init_min_p(min_p, 1))
        self._add(C.llama_sampler_init_temp(temperature))
        self._add(C.llama_sampler_init_dist(random.randrange(_SEEDS) if seed is None else seed % _SEEDS))

    def _add(self, sampler: object) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, ctx: int, row: int) -> int:
        """Draw from output row `row` of the last decode, and remember the token for the penalties."""
        return int(C.llama_sampler_sample(self._chain, ctx, row))

    def close(self) -> None:
        """Free the chain. Once only."""
        C.llama_sampler_free(self._chain)
