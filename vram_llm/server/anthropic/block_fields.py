"""Blocks of content: their paths in a request, and the fields of each type."""

from typing import Any

from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported
from vram_llm.server.known_fields import check_names

_ALWAYS = frozenset({"type", "cache_control", "id", "index", "_meta"})
_FIELDS = {
    "text": {"text", "citations", "parsed_output"},
    "image": {"source"},
    "document": {"source", "title", "context", "citations"},
    "search_result": {"source", "title", "content", "citations"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "tool_use": {"name", "input", "caller", "toolset_name"},
    "tool_result": {"tool_use_id", "content", "is_error", "toolset_name"},
    "tool_reference": {"tool_name"},
    "server_tool_use": {"name", "input", "caller"},
    "mcp_tool_use": {"name", "input", "server_name"},
    "tool_addition": {"tool"},
    "tool_removal": {"tool"},
    "compaction": {"content", "encrypted_content", "signature", "tool_changes"},
}
_RESULT = {"tool_use_id", "content", "is_error", "caller"}  # of a tool that ran at another server
_SOURCES = {
    "base64": frozenset({"type", "data", "media_type"}),
    "text": frozenset({"type", "data", "media_type"}),
    "content": frozenset({"type", "content"}),
    "url": frozenset({"type", "url"}),
}


def blocks_of(content: object, at: str) -> list[dict[str, Any]]:
    """The blocks in a message's content, which may be a string. Raises RequestError."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if content is None:
        return []
    if not isinstance(content, list):
        raise RequestError(f"'{at}' must be a string or a list of blocks", at)
    for i, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise RequestError(f"'{at}[{i}]' must be an object with a 'type'", f"{at}[{i}]")
    return content


def check_keys(block: dict[str, Any], at: str) -> None:
    """Raises UnknownParameter for a field that blocks of this type do not have."""
    kind = block["type"]
    known = _FIELDS.get(kind, _RESULT if kind.endswith("_tool_result") else None)
    if known is not None:
        check_names(block, at, _ALWAYS | known)


def check_source(source: dict[str, Any], at: str) -> None:
    """Raises UnknownParameter for a field that a source of this type does not have."""
    kind = source.get("type")
    if isinstance(kind, str) and kind in _SOURCES:
        check_names(source, at, _SOURCES[kind])


def unsupported(block: dict[str, Any], at: str) -> NotSupported:
    """The error for a block of an unsupported type."""
    return NotSupported(f"Blocks of type '{block['type']}' are not supported here", f"{at}.type")
