"""Calls of tools that ran at another server, earlier in the chat: read as calls and results."""

import json
from typing import Any

from vram_llm.server.anthropic.block_fields import check_keys
from vram_llm.server.known_fields import string_field

_CALLS = ("server_tool_use", "mcp_tool_use")
_UNREADABLE = ("encrypted_", "cache_control", "signature")  # prefixes of names


def is_call(kind: str) -> bool:
    """Whether blocks of this type are calls that a server made."""
    return kind in _CALLS


def is_result(kind: str) -> bool:
    """Whether blocks of this type are results within the assistant's message."""
    return kind != "tool_result" and kind.endswith("_tool_result")


def call_of(block: dict[str, Any], at: str) -> dict[str, Any]:
    """The call in a chat's form (see chat.history). Raises RequestError."""
    check_keys(block, at)
    arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
    function = {"name": string_field(block, "name", at), "arguments": arguments}
    return {"id": string_field(block, "id", at), "type": "function", "function": function}


def result_of(block: dict[str, Any], at: str) -> dict[str, Any]:
    """The message with the call's result. Raises RequestError."""
    check_keys(block, at)
    return {
        "role": "tool",
        "content": _text(block.get("content")),
        "tool_call_id": string_field(block, "tool_use_id", at),
    }


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    if all(isinstance(block, dict) and set(block) >= {"type", "text"} for block in blocks):
        return "\n".join(str(block["text"]) for block in blocks)
    return json.dumps(_readable(content), ensure_ascii=False)


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _readable(own)
            for name, own in value.items()
            if own is not None and not name.startswith(_UNREADABLE)
        }
    return [_readable(own) for own in value] if isinstance(value, list) else value
