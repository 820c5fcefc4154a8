"""What clients may send. The one place where their bytes become our types.

A field is one of four kinds. Declared here: obeyed. In IGNORED: clients send it and it changes nothing on
this server. In a table of neutral values: a feature that is not there yet, refused (400) unless its value
asks for nothing. Anything else: refused (400), as OpenAI does, rather than half-obeyed.
"""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from vram_llm.engine.request import SamplingParams
from vram_llm.errors import RequestError
from vram_llm.server.errors import MissingField, NotSupported, UnknownParameter

MAX_TOKENS = 2**31 - 1
MAX_CHOICES = 128  # that one request may ask for, over all its prompts
MAX_STOPS = 16

IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
        "prompt_cache_retention", "parallel_tool_calls", "cache_prompt",
    }
)  # fmt: skip

_STRING = {"type": "string"}
_STRINGS = {"type": "array", "items": _STRING}
_TOKENS = {"type": "array", "items": {"type": "integer"}}
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _STRING},
    "required": ["type", "text"],
}
_CONTENT = {"anyOf": [_STRING, {"type": "array", "items": _TEXT_PART}, {"type": "null"}]}
_PROMPT = {"anyOf": [_STRING, _STRINGS, _TOKENS, {"type": "array", "items": _TOKENS}]}
_STOP = {"anyOf": [_STRING, {**_STRINGS, "maxItems": MAX_STOPS}, {"type": "null"}]}

# Unions are declared for the document and checked by hand: pydantic's account of one is not one sentence.
Content = Annotated[Any, WithJsonSchema(_CONTENT)]
Prompt = Annotated[Any, WithJsonSchema(_PROMPT)]
Stop = Annotated[Any, WithJsonSchema(_STOP)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepeatPenalty = Annotated[float, Field(gt=0, le=2)]
T = TypeVar("T", bound="GenerationFields")


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None


class GenerationFields(BaseModel):
    """What chats and completions have in common. A field that is null is as good as absent."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    not_yet: ClassVar[dict[str, tuple[Any, ...]]] = {}

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    stop: Stop = None
    ignore_eos: bool | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: RepeatPenalty | None = None
    repetition_penalty: RepeatPenalty | None = None
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def stops(self) -> tuple[str, ...]:
        """The stop strings. Raises RequestError."""
        if self.stop is None:
            return ()
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        good = isinstance(stops, list) and all(isinstance(stop, str) and stop for stop in stops)
        if not good or len(stops) > MAX_STOPS:
            raise RequestError(
                f"'stop' must be a string or a list of at most {MAX_STOPS} strings, none empty", "stop"
            )
        return tuple(stops)

    def sampling(self, n_vocab: int) -> SamplingParams:
        """How the first choice is sampled. Raises RequestError."""
        repeat = one_of(self, "repeat_penalty", "repetition_penalty")
        outside = [token for token in self.logit_bias or () if not 0 <= token < n_vocab]
        if outside:
            raise RequestError(
                f"Token {outside[0]} in 'logit_bias' is not in the vocabulary: the last is {n_vocab - 1}",
                "logit_bias",
            )
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(0, self.top_k),  # -1 is how some say "off"
            "min_p": self.min_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repeat_penalty": repeat,
            "logit_bias": self.logit_bias or None,
            "seed": self.seed,
        }
        return SamplingParams(**{name: value for name, value in given.items() if value is not None})


class ChatCompletionRequest(GenerationFields):
    """POST /v1/chat/completions. `model` may be absent: it means the one model there is."""

    not_yet = {
        "tools": ([],), "tool_choice": ("none",), "functions": ([],), "function_call": ("none",),
        "response_format": ({"type": "text"},), "logprobs": (False,), "top_logprobs": (0,),
        "modalities": (["text"],), "audio": (), "prediction": (), "web_search_options": (),
        "reasoning_effort": (), "verbosity": ("medium",), "chat_template_kwargs": ({},),
        "grammar": ("",), "json_schema": (),
    }  # fmt: skip

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None


class CompletionRequest(GenerationFields):
    """POST /v1/completions. `max_tokens` is 16 where absent, as OpenAI's."""

    not_yet = {
        "suffix": ("",), "logprobs": (False,), "response_format": ({"type": "text"},),
        "grammar": ("",), "json_schema": (),
    }  # fmt: skip

    prompt: Prompt
    echo: bool | None = None
    best_of: int | None = None


def one_of(fields: BaseModel, first: str, second: str) -> Any:
    """The value of a field that has two names. Raises RequestError where both are given and differ."""
    a, b = getattr(fields, first), getattr(fields, second)
    if a is not None and b is not None and a != b:
        raise RequestError(f"'{first}' and '{second}' are the same setting; send one of them", second)
    return b if a is None else a


def parse(kind: type[T], body: bytes) -> T:
    """The request in `body`. Raises RequestError, with the field at fault."""
    try:
        fields = kind.model_validate_json(body)
    except ValidationError as error:
        raise _sentence(error) from None
    for name, value in (fields.model_extra or {}).items():
        _check_extra(kind, name, value)
    return fields


def _check_extra(kind: type[GenerationFields], name: str, value: Any) -> None:
    if name in IGNORED:
        return
    if name not in kind.not_yet:
        raise UnknownParameter(f"Unrecognized request argument supplied: {name}", name)
    neutral = kind.not_yet[name]
    if value is not None and not any(type(value) is type(n) and value == n for n in neutral):
        raise NotSupported(f"'{name}' is not supported yet; leave it out", name)


def _sentence(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return RequestError(f"The body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    param = _path(first["loc"])
    if not param:
        return RequestError("The body must be a JSON object")
    if first["type"] == "missing":
        return MissingField(f"Missing required parameter: '{param}'", param)
    value = repr(first["input"])
    shown = value if len(value) <= 60 else value[:57] + "..."
    message = first["msg"].removeprefix("Input ")
    return RequestError(f"Invalid value for '{param}': it {message}, got {shown}", param)


def _path(location: tuple[int | str, ...]) -> str:
    """("messages", 2, "role") as "messages[2].role"."""
    path = ""
    for step in location:
        if step == "[key]":  # pydantic's mark of a dict's key, where that is what is wrong
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path
