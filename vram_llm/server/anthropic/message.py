"""One message, as Anthropic's clients send it."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import WithJsonSchema

from vram_llm.server.known_fields import Fields

_BLOCK = {
    "type": "object",
    "description": (
        "A text, image, document, search_result, tool_use, tool_result, thinking or redacted_thinking block"
    ),
}
_BLOCKS = {"anyOf": [{"type": "string"}, {"type": "array", "items": _BLOCK}, {"type": "null"}]}
Blocks = Annotated[Any, WithJsonSchema(_BLOCKS)]
Effort = Literal["low", "medium", "high", "xhigh", "max"]
_OURS = ("id", "type", "model", "stop_reason", "stop_sequence", "stop_details", "usage")  # of our replies


class CachedFields(Fields):
    """An object that may mark the end of a cached prompt. The mark has no effect here."""

    ignored: ClassVar[frozenset[str]] = frozenset({"cache_control"})


class SystemConfig(CachedFields):
    """The settings of a message: the effort from this message on."""

    effort: Effort | None = None


class AnthropicMessage(CachedFields):
    """One message: a string, or a list of blocks. System messages may be anywhere among the others."""

    ignored: ClassVar[frozenset[str]] = frozenset(
        {*_OURS, "container", "context_management", "cache_control"}
    )

    role: Literal["user", "assistant", "system"]
    content: Blocks = None
    clear_at: Literal["never", "next_user_message"] | None = None
    output_config: SystemConfig | None = None
