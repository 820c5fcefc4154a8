"""Fields that input items and parts of their content may have, by type.

Sources: openai 3.57 (types/responses/response_input_item_param.py and the types that it names), Codex's
protocol/src/models.rs, openai-agents and @ai-sdk/openai.
"""

from collections.abc import Mapping
from typing import Any

from vram_llm.server.client_fields import CALL_IGNORED, PART_IGNORED
from vram_llm.server.known_fields import check_names

# Bookkeeping that any item may have.
_ALWAYS = frozenset(
    {
        "type", "id", "status", "phase", "metadata", "_meta", "cache_control", "created_by", "created_at",
        "end_turn", "provider_data", "provider_specific_fields", "provider_options", "providerOptions",
        "internal_chat_message_metadata_passthrough", "object", "agent", "model", "index", "timestamp",
    }
)  # fmt: skip
_MESSAGE = frozenset({"role", "content", "end_turn", "annotations", "logprobs", "refusal", "recipient"})
_CALL = frozenset({"call_id", "caller", "async", "namespace", "parsed_arguments"}) | CALL_IGNORED
_OUTPUT = frozenset(
    {"call_id", "caller", "name", "namespace", "output", "success", "max_output_length", "is_error"}
)
_COMPACTION = frozenset({"encrypted_content"})
_ITEMS: Mapping[str, frozenset[str]] = {
    "message": _MESSAGE,
    "agent_message": frozenset({"author", "recipient", "content", "channel", "encrypted_content"}),
    "reasoning": frozenset({"summary", "content", "encrypted_content", "format", "signature"}),
    "function_call": _CALL | {"name", "arguments"},
    "custom_tool_call": _CALL | {"name", "input"},
    "local_shell_call": _CALL | {"action"},
    "shell_call": _CALL | {"action", "environment"},
    "apply_patch_call": _CALL | {"operation"},
    "computer_call": _CALL | {"action", "actions", "pending_safety_checks"},
    "tool_search_call": _CALL | {"arguments", "execution"},
    "tool_search_output": _OUTPUT | {"execution", "tools"},
    "computer_call_output": _OUTPUT | {"acknowledged_safety_checks"},
    "mcp_call": frozenset({"approval_request_id", "arguments", "error", "name", "output", "server_label"}),
    "file_search_call": frozenset({"queries", "results"}),
    "code_interpreter_call": frozenset({"code", "container_id", "outputs"}),
    "additional_tools": frozenset({"role", "tools"}),
    "configuration_update": frozenset({"reasoning", "text"}),
    "compaction": _COMPACTION,
    "compaction_summary": _COMPACTION,
}
_PARTS: Mapping[str, frozenset[str]] = {
    "refusal": frozenset({"refusal"}),
    "input_image": frozenset({"image_url", "file_id", "detail"}),
    "computer_screenshot": frozenset({"image_url", "file_id", "detail"}),
}
_TEXT = frozenset({"text"})
_UPDATED = frozenset({"effort", "summary", "generate_summary", "context"})
_PART_ALWAYS = PART_IGNORED | {"type", "prompt_cache_breakpoint", "parsed", "provider_options", "metadata"}


def check_item(item: Mapping[str, Any], at: str) -> None:
    """Check the fields of an item that is read. Raises UnknownParameter."""
    kind = item["type"]
    known = _ITEMS.get(kind, _OUTPUT if kind.endswith("_call_output") else None)
    if known is not None:
        check_names(item, at, known | _ALWAYS)
    if kind == "configuration_update" and isinstance(reasoning := item.get("reasoning"), dict):
        check_names(reasoning, f"{at}.reasoning", _UPDATED)


def check_part(part: Mapping[str, Any], at: str) -> None:
    """Check the fields of a part of an item's content. Raises UnknownParameter."""
    check_names(part, at, _PARTS.get(part["type"], _TEXT) | _PART_ALWAYS)
