"""The bodies of POST /v1/responses (openai 3.57: types/responses/response_create_params.py)."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, WithJsonSchema

from vram_llm.engine.request import Grammar
from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.grammar_fields import of_response_format
from vram_llm.server.known_fields import Fields, Neutral
from vram_llm.server.responses.tools import ResponseTool
from vram_llm.server.sampling_fields import WHOLE
from vram_llm.server.schemas import MAX_MESSAGES, MAX_TOP_LOGPROBS, GenerationFields, MaxTokens, Metadata
from vram_llm.server.thinking_fields import ReasoningFields
from vram_llm.server.tools import MAX_TOOLS

_NAMED = {
    "type": "object",
    "properties": {"type": {"const": "function"}, "name": {"type": "string"}},
    "required": ["type", "name"],
}
ToolChoice = Annotated[
    Any, WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, _NAMED, {"type": "null"}]})
]
_ITEM = {
    "type": "object",
    "description": (
        "A message, function_call, function_call_output or reasoning item. Messages of a user and outputs of "
        "functions are a string, or a list of input_text and input_image parts"
    ),
}
Input = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _ITEM, "minItems": 1}]})
]
ENCODED_THINKING, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"
_CAN_INCLUDE = (
    ENCODED_THINKING,
    LOGPROBS,
    # parts of items that only OpenAI's tools make
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "message.input_image.image_url",
)


class TextFormat(Fields):
    """The form of the answer."""

    ignored: ClassVar[frozenset[str]] = frozenset({"name", "schema", "strict", "description"})

    type: Literal["text", "json_object", "json_schema"]


class TextConfig(Fields):
    """The form and the verbosity of the answer. `verbosity` is advice for the chat template."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseReasoning(ReasoningFields):
    """How much to think. A summary is the whole thinking. The chat template decides which turns keep it."""

    ignored: ClassVar[frozenset[str]] = frozenset({"context"})
    not_yet: ClassVar[Neutral] = {"mode": ("standard",)}


class ResponseStreamOptions(Fields):
    """How a stream is sent: always with its usage, never with padding that hides lengths."""

    ignored: ClassVar[frozenset[str]] = frozenset({"include_obfuscation", "include_usage"})


class Compaction(Fields):
    """When to compact a long chat."""

    type: Literal["compaction"]
    compact_threshold: Annotated[int, WHOLE] | None = None


class ResponseFields(GenerationFields):
    """POST /v1/responses."""

    not_yet: ClassVar[Neutral] = {
        "background": (False,),
        "conversation": (),
        "prompt": (),
        "moderation": (),
    }

    input: Input
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    n: Literal[1] | None = None
    max_tokens: None = None
    max_output_tokens: MaxTokens = None
    tools: Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    reasoning: ResponseReasoning | None = None
    stream_options: ResponseStreamOptions | None = None
    include: list[str] | None = None
    text: TextConfig | None = None
    top_logprobs: Annotated[int, WHOLE, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    metadata: Metadata | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    context_management: list[Compaction] | None = None
    truncation: Literal["auto", "disabled"] | None = None  # OpenAI's; see server.truncation
    truncate: bool | None = None
    max_tool_calls: Annotated[int, WHOLE, Field(ge=1)] | None = None  # of tools that OpenAI runs
    # The following fields have no effect.
    client_metadata: Any = None
    prompt_cache_options: Any = None
    access_programs: Any = None
    background_options: Any = None
    image: Any = None

    def grammar_wanted(self) -> Grammar | None:
        """The grammar that the answer must match, by `text.format`. Raises RequestError."""
        wanted = self.text.format.model_dump() if self.text and self.text.format else None
        if wanted is None:
            return super().grammar_wanted()
        if wanted["type"] == "json_schema" and not isinstance(wanted.get("schema"), dict):
            raise RequestError(
                "'text.format' of type 'json_schema' needs a 'schema', a JSON object", "text.format.schema"
            )
        if not isinstance(wanted.get("strict"), bool | None):
            raise RequestError("'text.format.strict' must be true or false", "text.format.strict")
        grammar = of_response_format({"type": wanted["type"], "json_schema": wanted})
        return None if grammar is None else replace(grammar, field="text.format")

    def includes(self, what: str) -> bool:
        """Whether the client asks for this part of the response."""
        return what in (self.include or ())

    @property
    def wants_summary(self) -> bool:
        return bool(self.reasoning and (self.reasoning.summary or self.reasoning.generate_summary))

    def token_limit(self, default: int | None) -> int | None:
        """The maximum number of tokens to generate; None: no limit. `default` is for an absent limit."""
        limit = default if self.max_output_tokens is None else self.max_output_tokens
        return None if limit is None or limit < 0 else limit

    @property
    def names(self) -> dict[str, Any]:
        """Variables for the chat template."""
        verbosity = {"verbosity": self.text.verbosity} if self.text and self.text.verbosity else {}
        return {**verbosity, **(self.chat_template_kwargs or {})}

    @property
    def truncates(self) -> bool | None:
        """Whether to drop the oldest turns of a chat that does not fit; None: `truncation` may allow it."""
        return False if self.truncate is None and self.truncation == "disabled" else self.truncate

    def n_logprobs(self) -> int | None:
        """The number of most likely tokens to give per position; None: no logprobs."""
        asked = self.top_logprobs or self.includes(LOGPROBS)
        return self.top_logprobs or 0 if asked else None

    def check(self, n_ctx: int) -> None:
        """Raises RequestError for fields that cannot be obeyed; `n_ctx` is the context's size, in tokens."""
        for wanted in self.include or ():
            if wanted not in _CAN_INCLUDE:
                raise NotSupported(f"'{wanted}' cannot be included; leave it out", "include")
        for i, edit in enumerate(self.context_management or ()):
            if edit.compact_threshold is not None and edit.compact_threshold < n_ctx:
                at = f"context_management[{i}]"
                raise NotSupported(
                    f"'{at}' asks for a summary of the chat from {edit.compact_threshold:,} tokens on; this "
                    "server makes none, leave it out",
                    at,
                )
        if not isinstance(self.input, str | list) or self.input == []:
            raise RequestError("'input' must be a string or a list of items, not an empty one", "input")
        if isinstance(self.input, list) and len(self.input) > MAX_MESSAGES:
            raise RequestError(
                f"'input' has {len(self.input):,} items; {MAX_MESSAGES:,} is the most", "input"
            )
