"""What clients may send. The one place where their bytes become our types.

A field is one of four kinds. Declared here: obeyed. In IGNORED: clients send it and it changes nothing on
this server. In a table of neutral values: a feature that is not there yet, refused (400) unless its value
asks for nothing. Anything else: refused (400), as OpenAI does, rather than half-obeyed.
"""

from codecs import BOM_UTF8
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from vram_llm.errors import RequestError
from vram_llm.server.errors import MissingField, NotSupported, UnknownParameter
from vram_llm.server.grammar_fields import GrammarFields
from vram_llm.server.pictures import DETAILS
from vram_llm.server.sampling_fields import SamplingFields
from vram_llm.server.tools import MAX_TOOLS, Tool, ToolChoice

MAX_TOKENS = 2**31 - 1
MAX_CHOICES = 128  # that one request may ask for, over all its prompts
MAX_STOPS = 16
MAX_TOP_LOGPROBS, MAX_COMPLETION_LOGPROBS = 20, 5  # OpenAI's

IGNORED = frozenset(
    {
        "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "cache_prompt",
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
_IMAGE_PART = {
    "type": "object",
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {
            "type": "object",
            "properties": {"url": _STRING, "detail": {"enum": [*DETAILS, None]}},
            "required": ["url"],
        },
    },
    "required": ["type", "image_url"],
}
_PART = {"anyOf": [_TEXT_PART, _IMAGE_PART]}
_CONTENT = {"anyOf": [_STRING, {"type": "array", "items": _PART}, {"type": "null"}]}
_PROMPT = {"anyOf": [_STRING, _STRINGS, _TOKENS, {"type": "array", "items": _TOKENS}]}
_STOP = {"anyOf": [_STRING, {**_STRINGS, "maxItems": MAX_STOPS}, {"type": "null"}]}
_LOGPROBS = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 5}, {"type": "null"}]}

# Unions are declared for the document and checked by hand: pydantic's account of one is not one sentence.
Content = Annotated[Any, WithJsonSchema(_CONTENT)]
Prompt = Annotated[Any, WithJsonSchema(_PROMPT)]
Stop = Annotated[Any, WithJsonSchema(_STOP)]
Logprobs = Annotated[Any, WithJsonSchema(_LOGPROBS)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Metadata = Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)]
T = TypeVar("T", bound=BaseModel)


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None


class GenerationFields(SamplingFields, GrammarFields):
    """What chats and completions have in common. A field that is null is as good as absent."""

    not_yet: ClassVar[dict[str, tuple[Any, ...]]] = {}

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    stop: Stop = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    return_progress: bool | None = None  # of the prompt, in streams
    timings_per_token: bool | None = None
    user: str | None = None  # whose request it is changes nothing here

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


class Reasoning(BaseModel):
    """How much to think. Thinking is shown whole, so every `summary` is met."""

    model_config = ConfigDict(strict=True)

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ChatCompletionRequest(GenerationFields):
    """POST /v1/chat/completions."""

    not_yet: ClassVar[dict[str, tuple[Any, ...]]] = {
        "functions": ([],), "function_call": ("none",), "modalities": (["text"],), "audio": (),
        "prediction": (), "web_search_options": (), "verbosity": ("medium",),
    }  # fmt: skip

    messages: Annotated[list[Message], Field(min_length=1)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    metadata: Metadata | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    def n_logprobs(self) -> int | None:
        """How many of the most likely tokens to tell at each place; None: nothing. Raises RequestError."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError("'top_logprobs' needs 'logprobs' to be true", "top_logprobs")
        return self.top_logprobs or 0 if self.logprobs else None


class CompletionRequest(GenerationFields):
    """POST /v1/completions. `max_tokens` is 16 where absent, as OpenAI's. An empty `suffix` is none."""

    prompt: Prompt
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None
    logprobs: Logprobs = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    def n_of(self) -> int | None:
        """How many choices to make for each prompt where the best are picked; None: all are given.

        Raises RequestError.
        """
        n, best_of = self.n or 1, self.best_of
        if best_of is None or best_of == n:
            return None
        if best_of < n:
            raise RequestError(
                f"'best_of' is {best_of} and must not be less than 'n', which is {n}", "best_of"
            )
        if self.stream:
            raise RequestError("'best_of' larger than 'n' cannot be streamed; leave one out", "best_of")
        return best_of

    def n_logprobs(self) -> int | None:
        """How many of the most likely tokens to tell at each place; None: nothing. Raises RequestError."""
        n = self.logprobs
        if n is None or n is False:
            return None
        if type(n) is not int or not 0 <= n <= MAX_COMPLETION_LOGPROBS:
            raise RequestError(
                f"'logprobs' must be a number from 0 to {MAX_COMPLETION_LOGPROBS}, got {n!r}", "logprobs"
            )
        return n


def parse(kind: type[T], body: bytes) -> T:
    """The request in `body`, with or without a byte order mark. Raises RequestError, with its field."""
    try:
        fields = kind.model_validate_json(body.removeprefix(BOM_UTF8))
    except ValidationError as error:
        raise _sentence(error) from None
    for name, value in (fields.model_extra or {}).items():
        _check_extra(kind, name, value)
    return fields


def _check_extra(kind: type[BaseModel], name: str, value: Any) -> None:
    if name in IGNORED:
        return
    not_yet: dict[str, tuple[Any, ...]] = getattr(kind, "not_yet", {})
    if name not in not_yet:
        raise UnknownParameter(f"Unrecognized request argument supplied: {name}", name)
    neutral = not_yet[name]
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
