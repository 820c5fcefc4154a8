"""Which requests the device can sample, and with which chain of samplers."""

from vram_llm.engine.request import Request
from vram_llm.engine.sequence import DeviceSamplerConfig
from vram_llm.llama.sampling import MIN_TEMPERATURE, MOST_MIN_P, MOST_TOP_K, SamplerChain
from vram_llm.planner.types import MOST_BIASED

NEARLY_ALL = 1 - 2.0**-24
"""A top-p that only sorts: CUDA's top-k keeps no order (top-k.cu), and a draw depends on the order."""


def make_chain(config: DeviceSamplerConfig, n_vocab: int, seed: int) -> SamplerChain:
    """The samplers of `config` in the host's order (sampler.py)."""
    chain = SamplerChain(n_vocab)
    if config.bias:
        chain.bias(dict(config.bias))
    if config.temperature == 0:
        chain.greedy()
    else:
        if config.top_k:
            chain.top_k(config.top_k)
        if config.top_p < 1:
            chain.top_p(config.top_p)
        if config.min_p > 0:
            chain.min_p(config.min_p)
        chain.temperature(config.temperature)
        chain.draw(seed)
    chain.keep_token_only()
    return chain


def device_sampler_config(request: Request, n_vocab: int) -> DeviceSamplerConfig | None:
    """The config with which the device samples a request; None if the host has to sample it.

    The host samples where logits are needed (a grammar, logprobs), where tokens are forbidden or prescribed
    (min_tokens, a reasoning budget), with samplers that llama.cpp has on no device, and with penalties: a
    chain with those may have one row a step, which leaves no room for drafts.
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
        return DeviceSamplerConfig(bias=bias)
    if params.mirostat or params.typical_p < 1 or params.top_n_sigma > 0 or params.xtc_probability > 0:
        return None
    top_k = params.top_k if params.top_k < n_vocab else 0
    if top_k > MOST_TOP_K or params.min_p > MOST_MIN_P:
        return None
    top_p = params.top_p
    if params.seed is not None and top_k:
        top_p = min(top_p, NEARLY_ALL)
    return DeviceSamplerConfig(params.temperature, top_k, top_p, params.min_p, bias)
