"""`tool_choice`: whether the model must call a tool, and which."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import WithJsonSchema

from vram_llm.errors import RequestError
from vram_llm.server.client_fields import TOOL_IGNORED
from vram_llm.server.errors import NotSupported
from vram_llm.server.known_fields import check_names

_NAMED = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
    },
    "required": ["type", "function"],
}
_OF_TOOL = TOOL_IGNORED | {"name", "namespace", "description", "parameters", "strict", "format"}
_ALLOWED = {"type": "object", "properties": {"type": {"const": "allowed_tools"}}, "required": ["type"]}
ToolChoice = Annotated[
    Any,
    WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, _NAMED, _ALLOWED, {"type": "null"}]}),
]


@dataclass(frozen=True, slots=True)
class ParsedToolChoice:
    """The calls that a request wants. `only`: the tool to call. `allowed`: callable tools; None: all."""

    mode: Literal["none", "auto", "required"] = "auto"
    only: str | None = None
    allowed: tuple[str, ...] | None = None


def parse_tool_choice(value: Any) -> ParsedToolChoice:
    """The `tool_choice` of chat completions or responses. Raises RequestError."""
    if value is None or value == "auto":
        return ParsedToolChoice()
    if value in ("none", "required"):
        return ParsedToolChoice(value)
    if value == "any":  # Mistral's
        return ParsedToolChoice("required")
    if isinstance(value, dict):
        _check_choice(value)
        if value.get("type") in ("none", "auto", "required"):
            return parse_tool_choice(value["type"])
        if value.get("type") == "allowed_tools":
            inner = value.get("allowed_tools")
            if isinstance(inner, dict):
                check_names(inner, "tool_choice.allowed_tools", frozenset({"mode", "tools"}))
                return _allowed(inner, "tool_choice.allowed_tools")
            return _allowed(value)
        if (name := _name(value)) is not None:
            return ParsedToolChoice("required", only=name)
    raise RequestError(
        "'tool_choice' must be 'none', 'auto', 'required' or the name of a function, "
        '{"type": "function", "function": {"name": ...}}',
        "tool_choice",
    )


def _check_choice(value: Mapping[str, Any]) -> None:
    """Raises UnknownParameter for unknown fields."""
    read = ("type", "name", "function", "custom", "allowed_tools", "mode", "tools")
    check_names({name: value[name] for name in value if name not in read}, "tool_choice", TOOL_IGNORED)
    for kind in ("function", "custom"):
        if isinstance(holder := value.get(kind), dict):
            unknown = {name: holder[name] for name in holder if name != "name"}
            check_names(unknown, f"tool_choice.{kind}", TOOL_IGNORED)


def _allowed(value: Any, at: str = "tool_choice") -> ParsedToolChoice:
    mode = value.get("mode", "auto") if isinstance(value, dict) else None
    tools = value.get("tools") if isinstance(value, dict) else None
    if mode not in ("auto", "required") or not isinstance(tools, list):
        raise RequestError(
            "'tool_choice' of type 'allowed_tools' needs a list of 'tools', and a 'mode' of 'auto' or "
            "'required'",
            "tool_choice",
        )
    for i, tool in enumerate(tools):
        if isinstance(tool, dict) and tool.get("type") in ("function", "custom"):
            _check_allowed(tool, f"{at}.tools[{i}]")
    names = [_name(tool) if isinstance(tool, dict) else None for tool in tools]
    if None in names:
        raise NotSupported(
            f"'{at}.tools[{names.index(None)}]' names no function; other tools do not run here",
            "tool_choice",
        )
    return ParsedToolChoice(mode, allowed=tuple(name for name in names if name is not None))


def _check_allowed(tool: Mapping[str, Any], at: str) -> None:
    """Raises UnknownParameter for fields that tools do not have. A tool's own fields may be repeated."""
    check_names(tool, at, _OF_TOOL | {"type", "function", "custom"})
    for kind in ("function", "custom"):
        if isinstance(holder := tool.get(kind), dict):
            check_names(holder, f"{at}.{kind}", _OF_TOOL)


def _name(value: Mapping[str, Any]) -> str | None:
    """The name of a function or a custom tool, in the form of either API."""
    kind = value.get("type")
    if kind not in ("function", "custom"):
        return None
    holder = value.get(kind, value)
    name = holder.get("name") if isinstance(holder, dict) else None
    return name if isinstance(name, str) else None
