"""`context_management`: how a server may shorten a long chat. This server does not."""

from typing import Any, ClassVar, Literal

from vram_llm.errors import RequestError
from vram_llm.server.anthropic.message import CachedFields
from vram_llm.server.errors import NotSupported

_COMPACT_AT = 150_000  # tokens of a prompt, without a trigger (Anthropic's)
NOTHING_CLEARED: dict[str, Any] = {"applied_edits": []}


class ContextEdit(CachedFields):
    """One way to shorten a chat. Clearing is permitted; compacting is required, from `trigger` on."""

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
        """The length of a prompt, in tokens, from which on it is compacted. Raises RequestError."""
        value = (self.trigger or {}).get("value")
        if value is None:
            return _COMPACT_AT
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
            raise RequestError(f"'{at}' must be a whole number of tokens", at)
        return int(value)


class ContextManagement(CachedFields):
    """How a long chat may be shortened."""

    edits: list[ContextEdit] | None = None

    def check(self, n_ctx: int) -> None:
        """Refuse a compaction that a context of `n_ctx` tokens can reach.

        Raises RequestError, NotSupported.
        """
        for i, edit in enumerate(self.edits or ()):
            if edit.type != "compact_20260112":
                continue
            at = f"context_management.edits[{i}]"
            trigger = edit.compacts_at(f"{at}.trigger.value")
            if trigger < n_ctx:
                raise NotSupported(
                    f"'{at}' asks for a summary of the chat from {trigger:,} tokens on; this server makes "
                    "none, leave it out",
                    at,
                )
