"""The bodies of requests: their bytes become typed objects here, and nowhere else.

Declared fields are implemented; `known_fields` has the rules for other fields.
"""

from codecs import BOM_UTF8
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from vram_llm.errors import RequestError
from vram_llm.server.client_fields import CHAT_NEUTRAL, IGNORED, NEUTRAL
from vram_llm.server.grammar_fields import GrammarFields
from vram_llm.server.image_inputs import DETAILS
from vram_llm.server.known_fields import Fields, Neutral, check_fields
from vram_llm.server.legacy_functions import FunctionCall, legacy_use
from vram_llm.server.lora import LoraFields
from vram_llm.server.sampling_fields import WHOLE, SamplingFields
from vram_llm.server.thinking_fields import ThinkingFields
from vram_llm.server.tool_choice import ToolChoice
from vram_llm.server.tools import MAX_TOOLS, Function, Tool, ToolUse, tool_use
from vram_llm.server.validation_errors import as_request_error, short_json

MAX_TOKENS = 2**31 - 1
MAX_CHOICES = 128  # per request, over all its prompts
MAX_STOPS = 16
MAX_STOP_CHARS = 4096  # of all stop strings: they are looked for after each token
MAX_MESSAGES = 20_000
MAX_TOP_LOGPROBS = 20  # OpenAI's for chats; its 5 for completions is not kept: other servers allow more

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
_AUDIO_PART = {
    "type": "object",
    "properties": {
        "type": {"const": "input_audio"},
        "input_audio": {
            "type": "object",
            "properties": {"data": _STRING, "format": {"enum": ["wav", "mp3", "flac"]}},
            "required": ["data"],
        },
    },
    "required": ["type", "input_audio"],
}
_PART = {"anyOf": [_TEXT_PART, _IMAGE_PART, _AUDIO_PART]}
_CONTENT = {"anyOf": [_STRING, {"type": "array", "items": _PART}, {"type": "null"}]}
_PROMPT = {"anyOf": [_STRING, _STRINGS, _TOKENS, {"type": "array", "items": _TOKENS}]}
_STOP = {"anyOf": [_STRING, {**_STRINGS, "maxItems": MAX_STOPS}, {"type": "null"}]}
_LOGPROBS = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 20}, {"type": "null"}]}

# Unions are declared for OpenAPI and checked by hand: pydantic needs several sentences for their errors.
Content = Annotated[Any, WithJsonSchema(_CONTENT)]
Prompt = Annotated[Any, WithJsonSchema(_PROMPT)]
Stop = Annotated[Any, WithJsonSchema(_STOP)]
Logprobs = Annotated[Any, WithJsonSchema(_LOGPROBS)]
MaxTokens = Annotated[int, WHOLE, Field(ge=-2, le=MAX_TOKENS)] | None  # below 0: no limit
Metadata = Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)]
T = TypeVar("T", bound=BaseModel)


class StreamOptions(Fields):
    """OpenAI's options of a stream."""

    ignored: ClassVar[frozenset[str]] = frozenset({"include_obfuscation"})  # padding that hides lengths
    not_yet: ClassVar[Neutral] = {"continuous_usage_stats": (False,)}

    include_usage: bool | None = None


class UsageOptions(Fields):
    """OpenRouter's way to ask for the usage at the end of a stream."""

    include: bool | None = None


class OllamaOptions(SamplingFields):
    """Ollama's settings."""

    ignored: ClassVar[frozenset[str]] = IGNORED
    not_yet: ClassVar[Neutral] = NEUTRAL

    num_predict: MaxTokens = None
    num_ctx: Annotated[int, WHOLE, Field(ge=0)] | None = None
    stop: Stop = None


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None


class GenerationFields(SamplingFields, GrammarFields, LoraFields):
    """Fields of all routes that generate text. A field that is null counts as absent."""

    ignored: ClassVar[frozenset[str]] = IGNORED
    not_yet: ClassVar[Neutral] = NEUTRAL

    model: str | None = None
    stream: bool | None = None
    n: Annotated[int, WHOLE, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: MaxTokens = None
    num_ctx: Annotated[int, WHOLE, Field(ge=0)] | None = None
    min_tokens: Annotated[int, WHOLE, Field(ge=0, le=MAX_TOKENS)] | None = None
    stop: Stop = None
    stopping_strings: Stop = None  # text-generation-webui's name
    stop_token_ids: Annotated[list[int], Field(max_length=MAX_STOPS)] | None = None
    ignore_eos: bool | None = None
    max_time: Annotated[float, Field(gt=0)] | None = None  # seconds, as in transformers
    skip_special_tokens: bool | None = None
    return_progress: bool | None = None  # of prompt processing, in streams
    timings_per_token: bool | None = None
    cache_prompt: bool | None = None  # False: no computed beginning of an earlier request is used
    n_indent: Annotated[int, WHOLE, Field(ge=0, le=MAX_TOKENS)] | None = None
    t_max_predict_ms: Annotated[int, WHOLE, Field(ge=-1, lt=2**63)] | None = None  # 0 or less: no limit
    id_slot: Annotated[int, WHOLE, Field(ge=-1)] | None = None  # the slot to run in; -1: any
    user: str | None = None  # has no effect

    @property
    def n_choices(self) -> int:
        """The number of choices. Raises RequestError."""
        return self.setting("n", "n_cmpl") or 1

    @property
    def line_time_s(self) -> float | None:
        """After how many seconds of writing the answer ends with its line; None: no limit."""
        limit_ms = self.t_max_predict_ms or 0
        return limit_ms / 1000 if limit_ms > 0 else None

    def check_context(self, n_ctx: int) -> None:
        """Raises RequestError if the request asks for more than `n_ctx` tokens of context."""
        wanted = self.setting("num_ctx")
        if wanted is not None and wanted > n_ctx:
            field = "num_ctx" if self.num_ctx is not None else "options.num_ctx"
            raise RequestError(
                f"'{field}' is {wanted:,} and the model is served with a context of {n_ctx:,} tokens; ask "
                "for no more, or start the server with a larger --n-ctx",
                field,
            )

    def slot(self, n_slots: int) -> int | None:
        """The number of the slot to run in; None: any. Raises RequestError."""
        if self.id_slot is None or self.id_slot < 0:
            return None
        return check_slot(self.id_slot, n_slots)

    def stops(self) -> tuple[str, ...]:
        """The stop strings. Raises RequestError."""
        given = self.setting("stop", "stopping_strings")
        if given is None:
            return ()
        stops = [given] if isinstance(given, str) else given
        good = isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)
        if not good or len(stops) > MAX_STOPS:
            raise RequestError(f"'stop' must be a string or a list of at most {MAX_STOPS} strings", "stop")
        if (n_chars := sum(map(len, stops))) > MAX_STOP_CHARS:
            raise RequestError(
                f"'stop' has {n_chars:,} characters and {MAX_STOP_CHARS:,} is the most; shorten it", "stop"
            )
        return tuple(stop for stop in stops if stop)  # an empty string has no effect

    def stop_ids(self, n_vocab: int) -> tuple[int, ...]:
        """The tokens that end the answer. Raises RequestError."""
        for i, token in enumerate(self.stop_token_ids or ()):
            if not 0 <= token < n_vocab:
                raise RequestError(
                    f"Token {token} in 'stop_token_ids' is not in the vocabulary: the last is {n_vocab - 1}",
                    f"stop_token_ids[{i}]",
                )
        return tuple(self.stop_token_ids or ())


class OpenAIFields(GenerationFields):
    """Fields of OpenAI's two routes, including those that clients of other servers send."""

    stream_options: StreamOptions | None = None
    usage: UsageOptions | None = None
    n_cmpl: Annotated[int, WHOLE, Field(ge=1, le=MAX_CHOICES)] | None = None
    n_predict: MaxTokens = None
    num_predict: MaxTokens = None
    max_new_tokens: MaxTokens = None  # text-generation-webui's name
    verbose: bool | None = None  # the prompt too, as llama-server's `__verbose`
    options: OllamaOptions | None = None

    @property
    def include_usage(self) -> bool:
        wanted = self.stream_options and self.stream_options.include_usage
        return bool(wanted or (self.usage and self.usage.include))

    def token_limit(self, default: int | None = None) -> int | None:
        """The maximum number of tokens to generate; None: no limit. `default` is for an absent limit.

        A limit below 0 is none. Raises RequestError if two fields differ.
        """
        given: int | None = self.setting(
            "max_completion_tokens", "max_tokens", "n_predict", "num_predict", "max_new_tokens"
        )
        limit = default if given is None else given
        return None if limit is None or limit < 0 else limit


class ChatCompletionRequest(OpenAIFields, ThinkingFields):
    """POST /v1/chat/completions."""

    not_yet: ClassVar[Neutral] = CHAT_NEUTRAL

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[Function], Field(max_length=MAX_TOOLS)] | None = None
    function_call: FunctionCall = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    metadata: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    max_completion_tokens: MaxTokens = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, WHOLE, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    n_probs: Annotated[int, WHOLE, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    truncate: bool | None = None  # drop the oldest turns if the chat does not fit, see server.truncation

    def n_logprobs(self) -> int | None:
        """The number of most likely tokens to give per position; None: no logprobs. Raises RequestError."""
        if self.logprobs is None and self.n_probs:
            return self.n_probs
        if self.top_logprobs and not self.logprobs:
            raise RequestError("'top_logprobs' needs 'logprobs' to be true", "top_logprobs")
        return self.top_logprobs or 0 if self.logprobs else None

    def use(self) -> ToolUse:
        """The tools and the calls allowed. Raises RequestError."""
        if not self.functions:
            return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)
        if self.tools:
            raise RequestError("'functions' is the older name of 'tools'; send one of them", "functions")
        return legacy_use(self.functions, self.function_call)

    def continues(self) -> bool:
        """Whether the answer continues the last message. Raises RequestError."""
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError(
                "'continue_final_message' and 'add_generation_prompt' exclude each other; send one of them",
                "continue_final_message",
            )
        if self.continue_final_message is not None:
            return self.continue_final_message
        if self.add_generation_prompt is not None or self.messages[-1].role != "assistant":
            return False
        if [message.role for message in self.messages[-2:]] == ["assistant"] * 2:
            raise RequestError(
                "'messages' ends with two assistant messages: send 'continue_final_message' true to continue "
                "the last one, or 'add_generation_prompt' true for another message",
                "messages",
            )
        return True


class CompletionRequest(OpenAIFields):
    """POST /v1/completions. `max_tokens` defaults to 16, as OpenAI's. An empty `suffix` counts as absent."""

    ignored: ClassVar[frozenset[str]] = frozenset({"metadata"})
    not_yet: ClassVar[Neutral] = {"add_special_tokens": (True,)}

    prompt: Prompt
    suffix: str | None = None
    logprobs: Logprobs = None
    n_probs: Annotated[int, WHOLE, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    def n_of(self) -> int | None:
        """The number of choices to generate per prompt if only the best are given; None: all are given.

        Raises RequestError.
        """
        n, best_of = self.n_choices, self.best_of
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
        """The number of most likely tokens to give per position; None: no logprobs. Raises RequestError."""
        n = self.logprobs if self.logprobs is not None else self.n_probs or None
        if n is None or n is False:
            return None
        if type(n) is not int or not 0 <= n <= MAX_TOP_LOGPROBS:
            raise RequestError(
                f"'logprobs' must be a number from 0 to {MAX_TOP_LOGPROBS}, got {short_json(n)}", "logprobs"
            )
        return n


def check_slot(number: int, n_slots: int) -> int:
    """The number of a slot. Raises RequestError if there is none of that number."""
    if not 0 <= number < n_slots:
        raise RequestError(
            f"there is no slot {number}: the slots are 0 to {n_slots - 1}, as many as --parallel says",
            "id_slot",
        )
    return number


def parse(kind: type[T], body: bytes) -> T:
    """Parse `body`, with or without a byte order mark. Raises RequestError naming the field."""
    try:
        fields = kind.model_validate_json(body.removeprefix(BOM_UTF8))
    except ValidationError as error:
        raise as_request_error(error) from None
    check_fields(fields)
    return fields
