"""Tool declarations with every member that some chat templates read without a test.

Command R+'s template needs a description of each parameter and the type of each value in an object. Hermes's
recurses without end on a type of "null". ByteDance's needs `properties`.
"""

from typing import Any

_MAX_DEPTH = 32
Tools = list[dict[str, Any]]


def plain_tools(tools: Tools) -> Tools:
    """The tools with complete parameters, for the prompt only: calls are read by the true schemas."""
    return [{**tool, "function": _function(tool["function"])} for tool in tools]


def _function(function: dict[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters") or {}
    return {
        **function,
        "description": function.get("description") or "",
        "parameters": {"type": "object", "properties": {}, **_plain(parameters, _MAX_DEPTH)},
    }


def _plain(schema: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or not depth:
        return schema
    plain: dict[str, Any] = {"description": "", **schema}
    if isinstance(kinds := schema.get("type"), list):
        known = [kind for kind in kinds if kind != "null"]
        plain["type"] = known[0] if len(known) == 1 else known or "string"
    if plain.get("type") == "null":
        plain["type"] = "string"
    if isinstance(properties := schema.get("properties"), dict):
        plain["properties"] = {name: _plain(inner, depth - 1) for name, inner in properties.items()}
    if plain.get("type") == "object":
        plain.setdefault("additionalProperties", {})
    if plain.get("type") == "array":
        plain["items"] = _plain(schema.get("items", {}), depth - 1)
    return plain
