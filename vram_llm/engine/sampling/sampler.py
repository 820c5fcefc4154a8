"""Samplers: a row of logits becomes a token, by the cheapest method that is right for the request.

Arg max for greedy requests; NumPy for temperature, top-k, top-p and min-p; llama.cpp's samplers for all
others. Where a grammar allows few tokens, only their logits are read. A request that the device samples has
no logits on the host: its sampler fetches the token.
"""

from vram_llm.engine.request import SamplingParams
from vram_llm.engine.sampling.device_chain import make_chain
from vram_llm.engine.sampling.numpy_sampler import Indices, NumpySampler
from vram_llm.engine.sequence import DeviceSamplerConfig
from vram_llm.errors import EngineDied
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.sampling import MIN_TEMPERATURE, Dry, SamplerChain, seed_of
from vram_llm.llama.vocab import Vocab

_MAX_DRY_SAMPLERS = 8


class Sampler:
    """Samples the tokens of one sequence on the host. Call `close` at the end."""

    def __init__(self, model: LoadedModel, method: SamplerChain | NumpySampler | None) -> None:
        self._model = model
        self._method = method  # None: arg max

    @property
    def is_argmax(self) -> bool:
        """True if the most likely token is taken as it stands."""
        return self._method is None

    def sample(self, row: int, allowed: Indices | None = None) -> int:
        """A token for output row `row` of the last decode; one of `allowed`, which is not empty, if given."""
        method = self._method
        if isinstance(method, SamplerChain):
            if allowed is None:
                return method.sample(self._model.ctx, row)
            return method.sample_among(allowed, self._model.logits(row)[allowed])
        logits = self._model.logits(row)
        if allowed is not None:
            logits = logits[allowed]
        index = int(logits.argmax()) if method is None else method(logits)
        return index if allowed is None else int(allowed[index])

    def close(self) -> None:
        """Free llama.cpp's sampler chain. Call it once."""
        if isinstance(self._method, SamplerChain):
            self._method.close()


class DeviceSampler:
    """Fetches the tokens that a chain on the device samples for one sequence. Call `close` at the end.

    While it is bound to no slot, a chain of its own keeps the state of its random draws.
    """

    is_argmax = False  # there are no logits

    def __init__(self, model: LoadedModel, config: DeviceSamplerConfig, seed: int | None) -> None:
        self._model = model
        self._own = make_chain(config, model.vocab.n_tokens, seed_of(seed))
        self.slot = -1

    def bind(self, slot: int) -> None:
        """Copy the state into a slot's chain, which has the same config, and continue there."""
        self._model.attached(slot).copy_state(self._own)
        self.slot = slot

    def unbind(self) -> None:
        """Copy the state back from the slot's chain, so that others can use it."""
        self._own.copy_state(self._model.attached(self.slot))
        self.slot = -1

    def sample(self, row: int, allowed: Indices | None = None) -> int:
        """The token for output row `row`. Call in the order of rows, and stop after the last accepted one.

        A draw counts only once its token is fetched, so rows of a rejected draft change no state.
        """
        token = self._model.sampled(row)
        if token < 0 or allowed is not None:
            raise EngineDied("llama.cpp sampled no token on the device where it should have")
        self._model.attached(self.slot).accept(token)
        return token

    def close(self) -> None:
        """Free its own chain. Once only."""
        self._own.close()


class SamplerFactory:
    """Makes the host samplers of a model's sequences."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._dry_samplers: dict[object, Dry] = {}

    def make(self, params: SamplingParams, prompt: list[int]) -> Sampler:
        """A sampler for a sequence whose prompt has the tokens `prompt`."""
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
        return Sampler(self._model, sampler_chain(self._model.vocab, params, self._model.n_ctx, dry, prompt))

    def _dry(self, params: SamplingParams) -> Dry:
        options = {
            "multiplier": params.dry_multiplier,
            "base": params.dry_base,
            "allowed_length": params.dry_allowed_length,
            "last_n": _last_n(params.dry_penalty_last_n, self._model.n_ctx),
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
    filters = params.typical_p < 1 or params.top_n_sigma > 0 or params.xtc_probability > 0
    if params.temperature < MIN_TEMPERATURE:
        return False
    return not (filters or params.changes_logits or params.mirostat)


def sampler_chain(
    vocab: Vocab, params: SamplingParams, n_ctx: int, dry: Dry | None, prompt: list[int]
) -> SamplerChain:
    """llama.cpp's samplers for `params`, in the order of llama-server (common/sampling.cpp)."""
    chain, seed = SamplerChain(vocab.n_tokens), seed_of(params.seed)
    if params.logit_bias:
        chain.bias(params.logit_bias)
    if params.has_penalties:
        chain.penalties(
            _last_n(params.repeat_last_n, n_ctx),
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
    if dry is not None:
        chain.dry(dry, prompt[-_last_n(params.dry_penalty_last_n, n_ctx) :])
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


def _last_n(wanted: int, n_ctx: int) -> int:
    """At most `n_ctx`: llama.cpp allocates room for all of them."""
    return n_ctx if wanted < 0 else min(wanted, n_ctx)
