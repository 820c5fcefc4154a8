"""`context_management`: what a server may clear out of a long chat. Here nothing is cleared."""

from typing import Any, ClassVar, Literal

from vram_llm.errors import RequestError
from vram_llm.server.anthropic.message import CachedFields
from vram_llm.server.errors import NotSupported

_COMPACT_AT = 150_000  # tokens of a prompt, where no trigger is given (Anthropic's)
NOTHING_CLEARED: dict[str, Any] = {"applied_edits": []}


class Edit(CachedFields):
    """One way to make a chat shorter. To clear is a permission; to compact is an order, at `trigger`."""

    ignored: ClassVar[frozenset[str]] = frozenset(
        {
            "keep",
            "clear_at_least",
            "clear_tool_inputs",
            "exclude_tools",
            "instructions",
            "pause_after_compaction",
        }
    )

    type: Literal["clear_thinking_20251015", "clear_tool_uses_20250919", "compact_20260112"]
    trigger: dict[str, Any] | None = None

    def compacts_at(self, at: str) -> int:
        """The tokens of a prompt from which on it is compacted. Raises RequestError."""
        value = (self.trigger or {}).get("value")
        if value is None:
            return _COMPACT_AT
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
            raise RequestError(f"'{at}' must be a whole number of tokens", at)
        return int(value)


class ContextManagement(CachedFields):
    """What may be done where a chat grows long."""

    edits: list[Edit] | None = None

    def check(self, n_ctx: int) -> None:
        """Refuse a compaction that a context of `n_ctx` tokens could come to.

        Raises RequestError, NotSupported.
        """
        for i, edit in enumerate(self.edits or ()):
            if edit.type != "compact_20260112":
                continue
            at = f"context_management.edits[{i}]"
            trigger = edit.compacts_at(f"{at}.trigger.value")
            if trigger < n_ctx:
                raise NotSupported(
                    f"'{at}' asks for a summary of the chat from {trigger:,} tokens on, and none is made "
                    "here; leave it out",
                    at,
                )
