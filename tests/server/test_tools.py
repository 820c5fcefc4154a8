"""The fields that say what may be called."""

from typing import Any

import pytest

from vram_llm.errors import RequestError
from vram_llm.server.tools import Tool, ToolUse, tool_use

NOW = {"type": "function", "function": {"name": "now", "description": "The time"}}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "strict": True}}
NAMED = {"type": "function", "function": {"name": "add"}}


def use(tools: list[dict[str, Any]], choice: Any = None, parallel: bool | None = None) -> ToolUse:
    return tool_use([Tool.model_validate(tool) for tool in tools], choice, parallel)


@pytest.mark.parametrize(
    ("tools", "choice", "used"),
    [
        ([], None, ToolUse()),
        ([], "auto", ToolUse()),
        ([NOW, ADD], None, ToolUse((NOW, ADD))),
        ([NOW], "auto", ToolUse((NOW,))),
        ([NOW], "none", ToolUse()),
        ([NOW], "required", ToolUse((NOW,), must_call=True)),
        ([NOW, ADD], NAMED, ToolUse((NOW, ADD), must_call=True, only="add")),
    ],
)
def test_choices(tools: list[dict[str, Any]], choice: Any, used: ToolUse) -> None:
    assert use(tools, choice) == used


def test_parallel_unless_told_otherwise() -> None:
    assert [use([NOW], parallel=p).parallel for p in (None, True, False)] == [True, True, False]


def test_schemas_by_name() -> None:
    assert use([NOW, ADD]).schemas == {"now": {}, "add": {"type": "object"}}
    assert use([]).schemas is None


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([NOW, NOW], None, "tools"),
        ([], "required", "tool_choice"),
        ([NOW], NAMED, "tool_choice"),
        ([NOW], "sometimes", "tool_choice"),
        ([NOW], 3, "tool_choice"),
        ([NOW], {"type": "function"}, "tool_choice"),
        ([NOW], {"type": "allowed_tools"}, "tool_choice"),
    ],
)
def test_refused(tools: list[dict[str, Any]], choice: Any, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        use(tools, choice)
    assert caught.value.param == param
