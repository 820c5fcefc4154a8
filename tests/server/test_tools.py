"""The fields that declare tools and choose calls."""

from typing import Any

import pytest

from vram_llm.engine.request import GrammarKind
from vram_llm.errors import RequestError
from vram_llm.server.tools import MAX_TOOLS, Tool, ToolUse, tool_use

NOW = {"type": "function", "function": {"name": "now", "description": "The time"}}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "strict": True}}
NAMED = {"type": "function", "function": {"name": "add"}}
PATCH = {"type": "custom", "custom": {"name": "patch", "description": "Edit"}}
EMPTY = {"type": "object", "properties": {}}


def grammar(syntax: str, definition: Any) -> dict[str, Any]:
    own = {"syntax": syntax, "definition": definition}
    return {"type": "custom", "custom": {"name": "patch", "format": {"type": "grammar", "grammar": own}}}


LARK, REGEX = grammar("lark", 'start: "a"+'), grammar("regex", "a+")


def use(tools: list[dict[str, Any]], choice: Any = None, parallel: bool | None = None) -> ToolUse:
    return tool_use([Tool.model_validate(tool) for tool in tools], choice, parallel)


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("tools", "choice", "names", "must_call", "only"),
    [
        ([], None, [], False, None),
        ([], "auto", [], False, None),
        ([NOW, ADD], None, ["now", "add"], False, None),
        ([NOW, NOW], None, ["now"], False, None),
        ([NOW, {"type": "function", "name": "add"}], None, ["now", "add"], False, None),
        ([NOW], {"type": "auto"}, ["now"], False, None),
        ([NOW], "auto", ["now"], False, None),
        ([NOW], "none", [], False, None),
        ([NOW], "required", ["now"], True, None),
        ([NOW, ADD], NAMED, ["now", "add"], True, "add"),
        ([NOW, ADD], allowed("auto", "add"), ["add"], False, None),
        ([NOW, ADD], allowed("required", "now"), ["now"], True, None),
        ([NOW, PATCH], {"type": "custom", "custom": {"name": "patch"}}, ["now", "patch"], True, "patch"),
    ],
)
def test_choices(
    tools: list[dict[str, Any]], choice: Any, names: list[str], must_call: bool, only: str | None
) -> None:
    used = use(tools, choice)
    assert [tool["function"]["name"] for tool in used.tools] == names
    assert (used.must_call, used.only) == (must_call, only)


def test_a_template_sees_three_things_of_a_tool() -> None:
    own = {**ADD["function"], "description": None, "cache_control": {"type": "ephemeral"}, "_meta": {}}  # type: ignore[dict-item]  # a dict
    (tool,) = use([{"type": "function", "function": own, "defer_loading": True}]).tools
    assert tool == {
        "type": "function",
        "function": {"name": "add", "description": "", "parameters": {"type": "object"}},
    }
    assert use([NOW]).tools[0]["function"]["parameters"] == EMPTY


def test_parallel_calls_by_default() -> None:
    assert [use([NOW], parallel=p).parallel for p in (None, True, False)] == [True, True, False]


def test_schemas_by_name() -> None:
    used = use([NOW, ADD])
    assert used.schemas == {"now": {**EMPTY, "additionalProperties": False}, "add": {"type": "object"}}
    assert used.strict == {"add"}
    assert use([]).schemas is None


@pytest.mark.parametrize(
    ("parameters", "closed"),
    [
        (None, True),
        ({}, True),
        (EMPTY, True),
        ({"type": "object"}, False),
        ({**EMPTY, "additionalProperties": True}, False),
        ({**EMPTY, "$ref": "#/$defs/a", "$defs": {"a": {}}}, False),
    ],
)
def test_a_function_without_parameters_takes_an_empty_object(parameters: Any, closed: bool) -> None:
    schemas = use([{"type": "function", "function": {"name": "f", "parameters": parameters}}]).schemas
    assert schemas is not None
    assert (schemas["f"].get("additionalProperties") is False) == closed


def test_a_custom_tool_takes_one_text() -> None:
    used = use([PATCH, NOW])
    assert used.takes_text == {"patch"}
    assert used.tools[0]["function"]["parameters"]["required"] == ["input"]
    assert used.written is None


@pytest.mark.parametrize(("tool", "kind"), [(LARK, GrammarKind.GBNF), (REGEX, GrammarKind.REGEX)])
def test_the_grammar_of_a_custom_tool(tool: dict[str, Any], kind: GrammarKind) -> None:
    assert use([tool]).written is None
    written = use([tool], "required").written
    assert written is not None
    assert (written[0], written[1].kind) == ("patch", kind)
    assert written[1].field == "tools[0].custom.format"
    assert use([tool, NOW], "required").written is None


def test_a_regular_expression_is_a_pattern_of_the_schema() -> None:
    used = use([REGEX])
    assert used.schemas is not None
    assert used.schemas["patch"]["properties"]["input"]["pattern"] == "^(?:a+)$"


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([NOW, {**NOW, "function": {"name": "now"}}], None, "tools"),
        ([], "required", "tool_choice"),
        ([NOW], NAMED, "tool_choice"),
        ([NOW], "sometimes", "tool_choice"),
        ([NOW], 3, "tool_choice"),
        ([NOW], {"type": "function"}, "tool_choice"),
        ([NOW], {"type": "allowed_tools"}, "tool_choice"),
        ([NOW], allowed("auto", "add"), "tool_choice"),
        ([NOW], allowed("sometimes", "now"), "tool_choice"),
        ([NOW], {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, "tool_choice"),
        ([{"type": "function"}], None, "tools[0].function"),
        ([{"type": "custom"}], None, "tools[0].custom"),
        ([grammar("abnf", "x")], None, "tools[0].custom.format"),
        ([grammar("lark", 3)], None, "tools[0].custom.format"),
    ],
)
def test_refused(tools: list[dict[str, Any]], choice: Any, param: str) -> None:
    with pytest.raises(RequestError) as caught:
        use(tools, choice)
    assert caught.value.param == param


def test_the_bound_is_far() -> None:
    assert MAX_TOOLS >= 4096
