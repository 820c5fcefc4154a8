"""Chooses the sampler of a request: on the device or on the host, and which of the host's methods.

The device samples if it can (`device_sampler_config`): then only tokens are copied to the host. Else the host
uses its cheapest method that is right for the request (`SamplerFactory`): arg max for greedy requests, NumPy
for temperature, top-k, top-p and min-p, and llama.cpp's samplers for all others.
"""

from vram_llm.engine.request import Request, SamplingParams
from vram_llm.engine.sampling.numpy_sampler import NumpySampler
from vram_llm.engine.sampling.sampler import Sampler
from vram_llm.engine.sampling.sampler_chains import host_chain, last_n
from vram_llm.engine.sequence import DeviceSamplerConfig
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.sampling import MIN_TEMPERATURE, MOST_MIN_P, MOST_TOP_K, DrySampler, seed_of
from vram_llm.planner.types import MOST_BIASED

NEARLY_ALL = 1 - 2.0**-24
"""A top-p that only sorts: CUDA's top-k keeps no order (top-k.cu), and a draw depends on the order."""
_MAX_DRY_SAMPLERS = 8


def device_sampler_config(request: Request, n_vocab: int) -> DeviceSamplerConfig | None:
    """The config with which the device samples a request; None if the host has to sample it.

    The host samples where logits are needed (a grammar, logprobs), where tokens are forbidden or prescribed
    (min_tokens, a reasoning budget), with samplers that llama.cpp has on no device, and with penalties: a
    chain with those may have one row a step, which leaves no room for drafts.
    """
    params = request.sampling
    if request.grammar is not None or request.logprobs is not None or request.prompt_logprobs is not None:
        return None
    if request.has_token_rules:
        return None
    if params.has_penalties or params.dry_multiplier > 0 or params.is_special:
        return None
    bias = tuple(sorted((params.logit_bias or {}).items()))
    if len(bias) > MOST_BIASED:
        return None
    if params.temperature < MIN_TEMPERATURE:
        return DeviceSamplerConfig(bias=bias)
    if params.mirostat or params.top_n_sigma > 0:
        return None
    top_k = params.top_k if params.top_k < n_vocab else 0
    if top_k > MOST_TOP_K or params.min_p > MOST_MIN_P:
        return None
    top_p = params.top_p
    if params.seed is not None and top_k:
        top_p = min(top_p, NEARLY_ALL)
    return DeviceSamplerConfig(params.temperature, top_k, top_p, params.min_p, bias)


class SamplerFactory:
    """Makes the host sampler of each sequence of a model."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._dry_samplers: dict[object, DrySampler] = {}

    def make(self, params: SamplingParams, prompt: list[int]) -> Sampler:
        """The cheapest sampler that is right for `params`; the sequence's prompt has the tokens `prompt`."""
        if params.is_greedy:
            return Sampler(self._model, None)
        if numpy_suffices(params):
            method = NumpySampler(
                temperature=params.temperature,
                top_k=params.top_k,
                top_p=params.top_p,
                min_p=params.min_p,
                seed=seed_of(params.seed),
            )
            return Sampler(self._model, method)
        dry = self._dry(params) if params.dry_multiplier > 0 else None
        return Sampler(self._model, host_chain(self._model.vocab, params, self._model.n_ctx, dry, prompt))

    def _dry(self, params: SamplingParams) -> DrySampler:
        options = {
            "multiplier": params.dry_multiplier,
            "base": params.dry_base,
            "allowed_length": params.dry_allowed_length,
            "last_n": last_n(params.dry_penalty_last_n, self._model.n_ctx),
            "breakers": params.dry_sequence_breakers,
        }
        key = tuple(options.values())
        if key not in self._dry_samplers:
            if len(self._dry_samplers) == _MAX_DRY_SAMPLERS:
                self._dry_samplers.pop(next(iter(self._dry_samplers))).close()
            self._dry_samplers[key] = self._model.vocab.dry(**options)
        return self._dry_samplers[key]


def numpy_suffices(params: SamplingParams) -> bool:
    """Whether sampling needs only temperature, top-k, top-p and min-p."""
    if params.temperature < MIN_TEMPERATURE or params.is_special:
        return False
    return not (params.top_n_sigma > 0 or params.changes_logits or params.mirostat)
