"""OpenAI's older way to offer tools: `functions`, and `function_call` to choose."""

from typing import Annotated, Any

from pydantic import WithJsonSchema

from vram_llm.errors import RequestError
from vram_llm.server.tools import Function, Tool, ToolUse, tool_use

_NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
FunctionCall = Annotated[
    Any, WithJsonSchema({"anyOf": [{"enum": ["none", "auto"]}, _NAMED, {"type": "null"}]})
]


def legacy_use(functions: list[Function], choice: Any) -> ToolUse:
    """The tools and their use; one call at a time. Raises RequestError."""
    tools = [Tool(type="function", function=function) for function in functions]
    if choice in (None, "auto", "none"):
        return tool_use(tools, choice, False)
    name = choice.get("name") if isinstance(choice, dict) else None
    if not isinstance(name, str) or name not in {function.name for function in functions}:
        raise RequestError(
            "'function_call' must be 'none', 'auto', or an object with the 'name' of one of the 'functions'",
            "function_call",
        )
    return tool_use(tools, {"type": "function", "function": {"name": name}}, False)
