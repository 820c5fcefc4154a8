"""Tools that a client offers, and what it says of their use."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from vram_llm.errors import RequestError
from vram_llm.server.errors import NotSupported

MAX_TOOLS = 128
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]+$", max_length=128)]
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
ToolChoice = Annotated[
    Any, WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, _NAMED, {"type": "null"}]})
]


class Function(BaseModel):
    """A function that the client will call for the model. `parameters` is a JSON schema of an object."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; functions are the only kind there is here."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"]
    function: Function


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What may be called in one answer. `tools` are as chat templates take them."""

    tools: tuple[dict[str, Any], ...] = ()
    must_call: bool = False
    only: str | None = None  # the one that must be called
    parallel: bool = True

    @property
    def schemas(self) -> dict[str, dict[str, Any]] | None:
        """The JSON schema of each tool's parameters by its name; None where there are no tools."""
        functions = [tool["function"] for tool in self.tools]
        return {f["name"]: f.get("parameters") or {} for f in functions} or None


def tool_use(tools: list[Tool] | None, choice: Any, parallel: bool | None) -> ToolUse:
    """Checks the three fields against each other. A choice of "none" hides the tools. Raises RequestError."""
    shown = tuple(tool.model_dump(exclude_none=True) for tool in tools or ())
    names = [tool["function"]["name"] for tool in shown]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"Two of the 'tools' are called '{twice}'", "tools")
    only = _named(choice)
    must_call = only is not None or choice == "required"
    if only is None and choice not in (None, "none", "auto", "required"):
        raise RequestError(
            "'tool_choice' must be 'none', 'auto', 'required' or the name of a function, "
            '{"type": "function", "function": {"name": ...}}',
            "tool_choice",
        )
    if only is not None and only not in names:
        raise RequestError(f"'tool_choice' names '{only}', which is not among the 'tools'", "tool_choice")
    if must_call and not shown:
        raise RequestError("'tool_choice' asks for a call, and there are no 'tools'", "tool_choice")
    if choice == "none":
        shown = ()
    return ToolUse(shown, must_call, only, parallel is not False)


def _named(choice: Any) -> str | None:
    if not isinstance(choice, dict):
        return None
    if choice.get("type") in ("allowed_tools", "custom"):
        raise NotSupported(f"A 'tool_choice' of type '{choice['type']}' is not supported", "tool_choice")
    function = choice.get("function")
    if choice.get("type") == "function" and isinstance(function, dict):
        name = function.get("name")
        return name if isinstance(name, str) else None
    return None
