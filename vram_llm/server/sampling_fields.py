"""The fields of a request that say how tokens are chosen: OpenAI's, and those llama-server has besides."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from vram_llm.engine.request import SamplingParams
from vram_llm.errors import RequestError

MAX_BREAKERS = 16  # each is looked for in the whole vocabulary
_INT32 = 2**31

Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepeatPenalty = Annotated[float, Field(gt=0, le=2)]
LastN = Annotated[int, Field(ge=-1, lt=_INT32)]  # -1: the whole context
Breaker = Annotated[str, Field(min_length=1, max_length=40)]  # llama.cpp reads no more of it


class SamplingFields(BaseModel):
    """A field that is null is as good as absent."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=-1, lt=_INT32)] | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    top_n_sigma: Annotated[float, Field(ge=-1)] | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None
    repeat_last_n: LastN | None = None
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Field(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Field(ge=0, lt=_INT32)] | None = None
    dry_penalty_last_n: LastN | None = None
    dry_sequence_breakers: Annotated[list[Breaker], Field(max_length=MAX_BREAKERS)] | None = None
    mirostat: Annotated[int, Field(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Field(ge=0, le=100)] | None = None
    mirostat_eta: Annotated[float, Field(ge=0, le=1)] | None = None
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None

    def sampling(self, n_vocab: int, defaults: Mapping[str, float | int]) -> SamplingParams:
        """How the first choice is sampled; `defaults` are fields of SamplingParams. Raises RequestError."""
        outside = [token for token in self.logit_bias or () if not 0 <= token < n_vocab]
        if outside:
            raise RequestError(
                f"Token {outside[0]} in 'logit_bias' is not in the vocabulary: the last is {n_vocab - 1}",
                "logit_bias",
            )
        given = {name: getattr(self, name) for name in SamplingFields.model_fields}
        del given["repetition_penalty"]
        given["repeat_penalty"] = one_of(self, "repeat_penalty", "repetition_penalty")
        given["top_k"] = None if self.top_k is None else max(0, self.top_k)  # -1 is how some say "off"
        given["logit_bias"] = self.logit_bias or None
        if self.dry_sequence_breakers is not None:
            given["dry_sequence_breakers"] = tuple(self.dry_sequence_breakers)
        named = {name: value for name, value in given.items() if value is not None}
        return SamplingParams(**{**defaults, **named})


def one_of(fields: BaseModel, first: str, second: str) -> Any:
    """The value of a field that has two names. Raises RequestError where both are given and differ."""
    a, b = getattr(fields, first), getattr(fields, second)
    if a is not None and b is not None and a != b:
        raise RequestError(f"'{first}' and '{second}' are the same setting; send one of them", second)
    return b if a is None else a
