"""Chains of llama.cpp's samplers for a request: one for the host, one for the device."""

from vram_llm.engine.request import SamplingParams
from vram_llm.engine.sequence import DeviceSamplerConfig
from vram_llm.llama.sampling import MIN_TEMPERATURE, DrySampler, SamplerChain, seed_of
from vram_llm.llama.vocab import Vocab


def host_chain(
    vocab: Vocab, params: SamplingParams, n_ctx: int, dry: DrySampler | None, prompt: list[int]
) -> SamplerChain:
    """llama.cpp's samplers for `params`, in the order of llama-server (common/sampling.cpp)."""
    chain, seed = SamplerChain(vocab.n_tokens), seed_of(params.seed)
    if params.logit_bias:
        chain.bias(params.logit_bias)
    if params.has_penalties:
        chain.penalties(
            last_n(params.repeat_last_n, n_ctx),
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
    if dry is not None:
        chain.dry(dry, prompt[-last_n(params.dry_penalty_last_n, n_ctx) :])
    if params.temperature < MIN_TEMPERATURE:
        chain.greedy()
    elif params.mirostat:
        chain.temperature(params.temperature)
        chain.mirostat(params.mirostat, params.mirostat_tau, params.mirostat_eta, seed)
    else:
        _add_filters(chain, params, seed)
        chain.temperature(params.temperature)
        chain.draw(seed)
    return chain


def _add_filters(chain: SamplerChain, params: SamplingParams, seed: int) -> None:
    if params.top_n_sigma > 0:
        chain.top_n_sigma(params.top_n_sigma)
    if params.top_k > 0:
        chain.top_k(params.top_k)
    if params.typical_p < 1:
        chain.typical(params.typical_p)
    if params.top_p < 1:
        chain.top_p(params.top_p)
    if params.min_p > 0:
        chain.min_p(params.min_p)
    if params.xtc_probability > 0:
        chain.xtc(params.xtc_probability, params.xtc_threshold, seed)


def last_n(wanted: int, n_ctx: int) -> int:
    """At most `n_ctx`: llama.cpp allocates room for all of them."""
    return n_ctx if wanted < 0 else min(wanted, n_ctx)


def device_chain(config: DeviceSamplerConfig, n_vocab: int, seed: int) -> SamplerChain:
    """The samplers of `config` in the order of `host_chain`."""
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
