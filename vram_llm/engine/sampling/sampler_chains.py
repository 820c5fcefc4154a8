"""Chains of llama.cpp's samplers for a request: one for the host, one for the device."""

from collections.abc import Callable

from vram_llm.engine.request import FILTERS, SamplingParams
from vram_llm.engine.sequence import DeviceSamplerConfig
from vram_llm.llama.sampling import MIN_TEMPERATURE, DrySampler, SamplerChain, seed_of
from vram_llm.llama.vocab import Vocab

_LEAST_DYNAMIC = 1e-3  # near 0 llama.cpp's division overflows


def host_chain(
    vocab: Vocab, params: SamplingParams, n_ctx: int, dry: DrySampler | None, prompt: list[int]
) -> SamplerChain:
    """llama.cpp's samplers for `params`, in its order or that of llama-server (common/sampling.cpp)."""
    chain, seed = SamplerChain(vocab.n_tokens), seed_of(params.seed)
    if params.logit_bias:
        chain.bias(params.logit_bias)
    is_greedy = params.temperature < MIN_TEMPERATURE and not params.is_special
    names = FILTERS if params.samplers is None else params.samplers
    if is_greedy or params.mirostat:
        names = ("penalties", "dry")  # the others keep the best token, or mirostat has none
    for name in names:
        if name == "dry":
            if dry is not None:
                chain.dry(dry, prompt[-last_n(params.dry_penalty_last_n, n_ctx) :])
        elif name == "penalties":
            _add_penalties(chain, params, n_ctx)
        elif name == "infill":
            vocab.add_infill(chain)
        elif name != "adaptive_p":
            _ADD[name](chain, params, seed)
    if is_greedy:
        chain.greedy()
    elif params.mirostat:
        chain.temperature(params.temperature)
        chain.mirostat(params.mirostat, params.mirostat_tau, params.mirostat_eta, seed)
    elif params.is_stateful:
        chain.adaptive_p(params.adaptive_target, params.adaptive_decay, seed)
    else:
        chain.draw(seed)
    return chain


def _add_penalties(chain: SamplerChain, params: SamplingParams, n_ctx: int) -> None:
    if params.has_penalties:
        chain.penalties(
            last_n(params.repeat_last_n, n_ctx),
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )


def _add_top_n_sigma(chain: SamplerChain, params: SamplingParams, _seed: int) -> None:
    if params.top_n_sigma > 0:
        chain.top_n_sigma(params.top_n_sigma)


def _add_top_k(chain: SamplerChain, params: SamplingParams, _seed: int) -> None:
    if params.top_k > 0:
        chain.top_k(params.top_k)


def _add_typical(chain: SamplerChain, params: SamplingParams, _seed: int) -> None:
    if params.typical_p < 1:
        chain.typical(params.typical_p, max(params.min_keep, 1))


def _add_top_p(chain: SamplerChain, params: SamplingParams, _seed: int) -> None:
    if params.top_p < 1:
        chain.top_p(params.top_p, max(params.min_keep, 1))


def _add_min_p(chain: SamplerChain, params: SamplingParams, _seed: int) -> None:
    if params.min_p > 0:
        chain.min_p(params.min_p, max(params.min_keep, 1))


def _add_xtc(chain: SamplerChain, params: SamplingParams, seed: int) -> None:
    if params.xtc_probability > 0:
        chain.xtc(params.xtc_probability, params.xtc_threshold, seed, max(params.min_keep, 1))


def _add_temperature(chain: SamplerChain, params: SamplingParams, _seed: int) -> None:
    if params.dynatemp_range > 0:
        high = params.temperature + params.dynatemp_range
        low = max(params.temperature - params.dynatemp_range, _LEAST_DYNAMIC)
        chain.dynamic_temperature((high + low) / 2, (high - low) / 2, params.dynatemp_exponent)
    elif params.temperature < MIN_TEMPERATURE:
        chain.top_k(1)
    else:
        chain.temperature(params.temperature)


_ADD: dict[str, Callable[[SamplerChain, SamplingParams, int], None]] = {
    "top_n_sigma": _add_top_n_sigma,
    "top_k": _add_top_k,
    "typ_p": _add_typical,
    "top_p": _add_top_p,
    "min_p": _add_min_p,
    "xtc": _add_xtc,
    "temperature": _add_temperature,
}


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
