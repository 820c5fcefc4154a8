"""Request fields that control sampling: OpenAI's, and more of llama-server's."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from vram_llm.engine.request import SamplingParams
from vram_llm.errors import RequestError
from vram_llm.server.known_fields import Fields
from vram_llm.server.logit_bias import LogitBias, token_biases
from vram_llm.server.samplers_field import SamplerNames, sampler_settings

MAX_BREAKERS = 16  # each is searched for in the whole vocabulary
MAX_TEMPERATURE = 1_000_000  # llama-server has no limit; at this value all tokens are equally likely
_INT32 = 2**31
_ROUNDING = 1e-6  # of a temperature that a client has computed
_ALSO = {
    "seed": ("random_seed", "sampler_seed"),
    "typical_p": ("typ_p", "typical"),
    "repeat_penalty": ("repetition_penalty", "rep_pen"),
    "mirostat": ("mirostat_mode",),
}


def _whole(value: object) -> object:
    """Reads 20.0 as 20: some clients have no integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
Seed = Annotated[int, WHOLE, Field(ge=-(2**63), lt=2**64)]
Mirostat = Annotated[int, WHOLE, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-100, le=100)]
RepeatPenalty = Annotated[float, Field(gt=0, le=100)]
LastN = Annotated[int, WHOLE, Field(ge=-1, lt=_INT32)]  # -1: the whole context
Breaker = Annotated[str, Field(min_length=1, max_length=40)]  # llama.cpp reads no more characters


_RANGES = ("rep_pen_range", "repetition_penalty_range")
_DYNAMIC = ("dynamic_temperature", "dynatemp_low", "dynatemp_high")
_MEANS = {also: name for name, others in _ALSO.items() for also in others}


LLAMA_SERVER_RANDOM_SEED = 0xFFFFFFFF  # LLAMA_DEFAULT_SEED in include/llama.h
RANDOM_SEEDS = (-1, LLAMA_SERVER_RANDOM_SEED)


class SamplingFields(Fields):
    """A field that is null counts as absent."""

    seed: Seed | None = None  # RANDOM_SEEDS: random
    random_seed: Seed | None = None  # Mistral's name
    sampler_seed: Seed | None = None  # KoboldCpp's name
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, WHOLE, Field(ge=-_INT32, lt=_INT32)] | None = None  # 0 or less: off
    min_p: Share | None = None
    typical_p: Share | None = None
    typ_p: Share | None = None  # the name in llama-server's own web page
    typical: Share | None = None  # text-generation-webui's name
    top_n_sigma: Annotated[float, Field(ge=-1)] | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None  # vLLM's name
    rep_pen: RepeatPenalty | None = None  # KoboldCpp's name
    repeat_last_n: LastN | None = None
    rep_pen_range: LastN | None = None  # KoboldCpp's and text-generation-webui's; SillyTavern sends all three
    repetition_penalty_range: LastN | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, WHOLE, Field(ge=0, lt=_INT32)] | None = None
    dry_penalty_last_n: LastN | None = None
    dry_sequence_breakers: Annotated[list[Breaker], Field(max_length=MAX_BREAKERS)] | None = None
    mirostat: Mirostat | None = None
    mirostat_mode: Mirostat | None = None  # text-generation-webui's name
    mirostat_tau: Annotated[float, Field(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0, le=1)] | None = None
    dynatemp_range: Annotated[float, Field(ge=0, le=100)] | None = None
    dynatemp_exponent: Annotated[float, Field(ge=0, le=100)] | None = None
    dynamic_temperature: bool | None = None  # text-generation-webui's; SillyTavern sends both forms
    dynatemp_low: float | None = None  # without effect unless `dynamic_temperature`
    dynatemp_high: float | None = None
    min_keep: Annotated[int, WHOLE, Field(ge=0, lt=_INT32)] | None = None
    adaptive_target: Annotated[float, Field(le=1)] | None = None  # below 0: off
    adaptive_decay: Annotated[float, Field(ge=0, le=0.99)] | None = None
    logit_bias: LogitBias = None
    samplers: SamplerNames = None

    def sampling(self, n_vocab: int, defaults: Mapping[str, float | int]) -> SamplingParams:
        """The sampling of the first choice. `defaults` are SamplingParams fields. Raises RequestError."""
        options = getattr(self, "options", None)
        sent = self.model_fields_set if options is None else self.model_fields_set | options.model_fields_set
        names = {_MEANS.get(name, name) for name in sent & SamplingFields.model_fields.keys()}
        given = {
            name: self.setting(name, *_ALSO.get(name, ()))
            for name in names - {"samplers", *_RANGES, *_DYNAMIC}
        }
        if not names.isdisjoint(_RANGES):
            self._check_ranges()
        named = {name: _as_param(name, value, n_vocab) for name, value in given.items() if value is not None}
        params = {**defaults, **named}
        if self.setting("dynamic_temperature"):
            self._check_dynamic_temperature(
                SamplingParams(**params).temperature, params.get("dynatemp_range")
            )
        sampling = SamplingParams(**{**params, **sampler_settings(self.setting("samplers"))})
        if sampling.adaptive_target >= 0 and not sampling.is_stateful:
            raise RequestError(
                "'adaptive_target' is for the sampler 'adaptive_p': name it in 'samplers'", "adaptive_target"
            )
        return sampling

    def _check_ranges(self) -> None:
        """Raises RequestError for a range by a name whose 0 is another one than that of `repeat_last_n`."""
        for name in _RANGES:
            if getattr(self, name, None) not in (None, 0, self.setting("repeat_last_n")):
                raise RequestError(f"'{name}' must be 0, or that of 'repeat_last_n'; send that one", name)

    def _check_dynamic_temperature(self, temperature: float, distance: float | None) -> None:
        """Raises RequestError without a `distance`, and for ends that are not that far from `temperature`."""
        if distance is None:
            raise RequestError(
                "'dynamic_temperature' needs 'dynatemp_range': how far from 'temperature' it may be",
                "dynamic_temperature",
            )
        for name, end in (
            ("dynatemp_low", temperature - distance),
            ("dynatemp_high", temperature + distance),
        ):
            given = self.setting(name)
            if given is not None and not math.isclose(given, end, rel_tol=0, abs_tol=_ROUNDING):
                raise RequestError(
                    f"'{name}' must be {end:g}, by 'temperature' and 'dynatemp_range'; leave it out", name
                )

    def setting(self, *names: str) -> Any:
        """The value of a setting with several names. Raises RequestError if two are given and differ.

        Ollama's `options` may hold it too.
        """
        options = getattr(self, "options", None)
        if options is None and self.model_fields_set.isdisjoint(names):
            return None
        given = [(name, value) for name in names if (value := getattr(self, name, None)) is not None]
        if options is not None:
            given += [
                (f"options.{name}", value)
                for name in names
                if (value := getattr(options, name, None)) is not None
            ]
        for name, value in given[1:]:
            if value != given[0][1]:
                raise RequestError(
                    f"'{given[0][0]}' and '{name}' are the same setting; send one of them", name
                )
        return given[0][1] if given else None


def _as_param(name: str, value: Any, n_vocab: int) -> Any:
    """A field's value in SamplingParams' form. Raises RequestError."""
    match name:
        case "seed":
            return None if value in RANDOM_SEEDS else value
        case "top_k":
            return max(0, value)
        case "logit_bias":
            return token_biases(value, n_vocab)
        case "dry_sequence_breakers":
            return tuple(value)
    return value
