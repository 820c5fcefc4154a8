"""From a row of logits to a token, by the cheapest way that is right for the request.

Arg max where the best token is wanted as it stands; a draw in NumPy where temperature, top-k, top-p and min-p
are all there is; llama.cpp's samplers for the rest. Where a grammar allows few tokens, only their logits are
read. Or the device has chosen already, and there are no logits.
"""

from vram_llm.engine.request import SamplingParams
from vram_llm.engine.sampling.device_chain import make_chain
from vram_llm.engine.sampling.numpy_sampler import Draw, Indices
from vram_llm.engine.sequence import DeviceSamplerConfig
from vram_llm.errors import EngineDied
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.sampling import MIN_TEMPERATURE, Dry, SamplerChain, seed_of
from vram_llm.llama.vocab import Vocab

_DRIES_KEPT = 8


class Chooser:
    """Chooses the tokens of one sequence, one after the other. Call `close` at the end."""

    def __init__(self, model: LoadedModel, how: SamplerChain | Draw | None) -> None:
        self._model = model
        self._how = how  # None: arg max

    @property
    def is_best_of_logits(self) -> bool:
        """True where the most likely token is taken as it stands."""
        return self._how is None

    def choose(self, row: int, allowed: Indices | None = None) -> int:
        """A token for output row `row` of the last decode; one of `allowed`, which is not empty, if given."""
        how = self._how
        if isinstance(how, SamplerChain):
            if allowed is None:
                return how.sample(self._model.ctx, row)
            return how.sample_among(allowed, self._model.logits(row)[allowed])
        logits = self._model.logits(row)
        if allowed is not None:
            logits = logits[allowed]
        place = int(logits.argmax()) if how is None else how(logits)
        return place if allowed is None else int(allowed[place])

    def close(self) -> None:
        """Free what llama.cpp holds for it. Once only."""
        if isinstance(self._how, SamplerChain):
            self._how.close()


class DeviceChooser:
    """Takes the tokens that a chain on the device has chosen for one sequence. Call `close` at the end.

    While the sequence sits in no slot, a chain of its own keeps how its draws go on.
    """

    is_best_of_logits = False  # there are none

    def __init__(self, model: LoadedModel, config: DeviceSamplerConfig, seed: int | None) -> None:
        self._model = model
        self._own = make_chain(config, model.vocab.n_tokens, seed_of(seed))
        self.slot = -1

    def sit(self, slot: int) -> None:
        """Go on in a slot, whose chain is of the same kind."""
        self._model.attached(slot).copy_state(self._own)
        self.slot = slot

    def rise(self) -> None:
        """Leave the slot to others."""
        self._own.copy_state(self._model.attached(self.slot))
        self.slot = -1

    def choose(self, row: int, allowed: Indices | None = None) -> int:
        """The token for output row `row`; rows in their order, of which none after the first not wanted.

        Nothing is drawn for good until it is asked for, so rows of a refused draft leave no trace.
        """
        token = self._model.sampled(row)
        if token < 0 or allowed is not None:
            raise EngineDied("llama.cpp chose no token on the device where it was to")
        self._model.attached(self.slot).accept(token)
        return token

    def close(self) -> None:
        """Free its own chain. Once only."""
        self._own.close()


class Choosers:
    """Makes the choosers of a model's sequences."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._dries: dict[object, Dry] = {}

    def make(self, params: SamplingParams, prompt: list[int]) -> Chooser:
        """A chooser for a sequence that begins with `prompt`."""
        if params.is_greedy:
            return Chooser(self._model, None)
        if draws_alone(params):
            draw = Draw(
                temperature=params.temperature,
                top_k=params.top_k,
                top_p=params.top_p,
                min_p=params.min_p,
                seed=seed_of(params.seed),
            )
            return Chooser(self._model, draw)
        dry = self._dry(params) if params.dry_multiplier > 0 else None
        return Chooser(self._model, sampler_chain(self._model.vocab, params, self._model.n_ctx, dry, prompt))

    def _dry(self, params: SamplingParams) -> Dry:
        options = {
            "multiplier": params.dry_multiplier,
            "base": params.dry_base,
            "allowed_length": params.dry_allowed_length,
            "last_n": _last_n(params.dry_penalty_last_n, self._model.n_ctx),
            "breakers": params.dry_sequence_breakers,
        }
        key = tuple(options.values())
        if key not in self._dries:
            if len(self._dries) == _DRIES_KEPT:
                self._dries.pop(next(iter(self._dries))).close()
            self._dries[key] = self._model.vocab.dry(**options)
        return self._dries[key]


def draws_alone(params: SamplingParams) -> bool:
    """Whether a draw needs no more than temperature, top-k, top-p and min-p."""
    filters = params.typical_p < 1 or params.top_n_sigma > 0 or params.xtc_probability > 0
    if params.temperature < MIN_TEMPERATURE:
        return False
    return not (filters or params.changes_logits or params.mirostat)


def sampler_chain(
    vocab: Vocab, params: SamplingParams, n_ctx: int, dry: Dry | None, prompt: list[int]
) -> SamplerChain:
    """llama.cpp's samplers for `params`, in the order its server has them in (common/sampling.cpp)."""
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
    """No more than there can be: llama.cpp makes room for as many tokens as it is told."""
    return n_ctx if wanted < 0 else min(wanted, n_ctx)
