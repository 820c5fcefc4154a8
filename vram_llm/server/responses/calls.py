"""Items with tool calls, and items with their results."""

import json
from typing import Any

from vram_llm.server.custom_tools import arguments_of
from vram_llm.server.image_inputs import RequestImages
from vram_llm.server.known_fields import string_field
from vram_llm.server.responses.parts import text_of
from vram_llm.server.responses.tools import flat_name

# The field with the arguments, by type of tool: tools of OpenAI's types that the client runs.
_BY_TYPE = {
    "local_shell_call": "action",
    "shell_call": "action",
    "apply_patch_call": "operation",
    "computer_call": "action",
    "tool_search_call": "arguments",
}
# The fields with arguments and with results, by type of tool: tools that ran at another server.
_HOSTED = {
    "file_search_call": (("queries",), ("results",)),
    "code_interpreter_call": (("code",), ("outputs",)),
}


def call_in(item: dict[str, Any], at: str) -> dict[str, Any] | None:
    """The call in a chat's form (see chat.history); None if the item is not a call. Raises RequestError."""
    kind = item.get("type")
    if kind == "function_call":
        name = flat_name(string_field(item, "name", at), _namespace(item, at))
        return _call(string_field(item, "call_id", at), name, string_field(item, "arguments", at))
    if kind == "custom_tool_call":
        name = flat_name(string_field(item, "name", at), _namespace(item, at))
        return _call(string_field(item, "call_id", at), name, arguments_of(string_field(item, "input", at)))
    if kind in _BY_TYPE:
        value = item.get(_BY_TYPE[kind])
        return _call(
            _id(item, at), kind.removesuffix("_call"), value if isinstance(value, str) else _json(value)
        )
    return None


def output_of(item: dict[str, Any], at: str, images: RequestImages) -> dict[str, Any] | None:
    """The message with a call's result; None if the item is not a result. May block. Raises RequestError."""
    kind = item.get("type", "")
    if kind == "tool_search_output":
        tools = item.get("tools")
        listed = tools if isinstance(tools, list) else []
        names = [str(tool.get("name")) for tool in listed if isinstance(tool, dict)]
        return _output(_id(item, at), f"Tools found: {', '.join(names) or 'none'}")
    if not (kind.endswith("_call_output") or kind == "mcp_tool_call_output"):
        return None
    output = item.get("output")
    if isinstance(output, dict) and isinstance(output.get("type"), str):  # a computer's screenshot
        output = [output]
    if isinstance(output, dict):
        output = output.get("content", _json(output))
    if isinstance(output, list) and not all(isinstance(part, dict) and "type" in part for part in output):
        output = _json(output)  # of a shell: stdout, stderr and outcome
    return _output(_id(item, at), text_of(output or "", f"{at}.output", images))


def hosted_in(item: dict[str, Any], at: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """A call that ran at another server, and the message with its result; None for other items."""
    kind = item.get("type", "")
    call_id = str(item.get("id") or "call")
    if kind == "mcp_call":
        call = _call(call_id, string_field(item, "name", at), str(item.get("arguments") or "{}"))
        result = item.get("output") or item.get("error") or ""
        return call, _output(call_id, result if isinstance(result, str) else _json(result))
    if kind in _HOSTED:
        arguments, results = (
            {name: item[name] for name in names if item.get(name) is not None} for names in _HOSTED[kind]
        )
        call = _call(call_id, kind.removesuffix("_call"), _json(arguments))
        return call, _output(call_id, _json(results) if results else "")
    return None


def _namespace(item: dict[str, Any], at: str) -> str | None:
    return None if item.get("namespace") is None else string_field(item, "namespace", at)


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _output(call_id: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": call_id}


def _id(item: dict[str, Any], at: str) -> str:
    return (
        item["id"]
        if item.get("call_id") is None and isinstance(item.get("id"), str)
        else string_field(item, "call_id", at)
    )


def _json(value: Any) -> str:
    return json.dumps({} if value is None else value, ensure_ascii=False)
