"""Which requests can be sampled on the device, and with which chain of samplers."""

from typing import NamedTuple

from vram_llm.engine.request import Request
from vram_llm.llama.sampling import MIN_TEMPERATURE, MOST_MIN_P, MOST_TOP_K, SamplerChain
from vram_llm.plan.context import MOST_BIASED

NEARLY_ALL = 1 - 2.0**-24
"""A top-p that only sorts: CUDA's top-k keeps no order (top-k.cu), and a draw goes by the order."""


class Kind(NamedTuple):
    """What a chain on the device is made from: all of a request's sampling but its seed.

    At a temperature of 0 the best token is taken.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def samplers(self) -> tuple[bool, ...]:
        """Which samplers its chain has, whatever their figures."""
        return (self.temperature > 0, self.top_k > 0, self.top_p < 1, self.min_p > 0, bool(self.bias))

    def chain(self, n_vocab: int, seed: int) -> SamplerChain:
        """The samplers in the order the host has them (choosing.py)."""
        chain = SamplerChain(n_vocab)
        if self.bias:
            chain.bias(dict(self.bias))
        if self.temperature == 0:
            chain.greedy()
        else:
            if self.top_k:
                chain.top_k(self.top_k)
            if self.top_p < 1:
                chain.top_p(self.top_p)
            if self.min_p > 0:
                chain.min_p(self.min_p)
            chain.temperature(self.temperature)
            chain.draw(seed)
        chain.keep_token_only()
        return chain


def kind_of(request: Request, n_vocab: int) -> Kind | None:
    """The kind of chain that samples a request on the device; None where it takes the host.

    It does where logits are wanted there (a grammar, logprobs) or tokens are ruled out or prescribed
    (min_tokens, a budget of thinking), for samplers that llama.cpp has on no device,
    and for penalties: a chain with those may have one row a step, and so would leave no room for drafts.
    """
    params = request.sampling
    if request.grammar is not None or request.logprobs is not None or request.prompt_logprobs is not None:
        return None
    if request.is_steered:
        return None
    if params.has_penalties or params.dry_multiplier > 0:
        return None
    bias = tuple(sorted((params.logit_bias or {}).items()))
    if len(bias) > MOST_BIASED:
        return None
    if params.temperature < MIN_TEMPERATURE:
        return Kind(bias=bias)
    if params.mirostat or params.typical_p < 1 or params.top_n_sigma > 0 or params.xtc_probability > 0:
        return None
    top_k = params.top_k if params.top_k < n_vocab else 0
    if top_k > MOST_TOP_K or params.min_p > MOST_MIN_P:
        return None
    top_p = params.top_p
    if params.seed is not None and top_k:
        top_p = min(top_p, NEARLY_ALL)
    return Kind(params.temperature, top_k, top_p, params.min_p, bias)
