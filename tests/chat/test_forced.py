"""Calls that must be made: what they are held to, and how they are read."""

import json

import pytest

from tests.chat.formats.cuts import Said, calls, check
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.forced import call_schema, forced

SCHEMAS = {
    "now": {},
    "paint": {
        "properties": {"pen": {"$ref": "#/$defs/Pen"}, "next": {"$ref": "#"}},
        "$defs": {"Pen": {"enum": ["red"]}},
        "required": ["pen"],
    },
}


def test_one_of_the_tools_with_its_own_definitions() -> None:
    schema = json.loads(call_schema(SCHEMAS, None))
    names = [each["properties"]["name"]["const"] for each in schema["anyOf"]]
    assert names == ["now", "paint"]
    assert schema["$defs"]["0"] == {"type": "object"}
    paint = schema["$defs"]["1"]
    assert paint["properties"] == {"pen": {"$ref": "#/$defs/1/$defs/Pen"}, "next": {"$ref": "#/$defs/1"}}
    assert paint["type"] == "object"


def test_only_the_one_that_was_named() -> None:
    (call,) = json.loads(call_schema(SCHEMAS, "paint"))["anyOf"]
    assert call["properties"]["name"] == {"const": "paint"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": "now", "arguments": {"a": 1}}', calls(("now", '{"a": 1}'))),
        ('\n{"name": "now", "arguments": {"a":', Said(calls=[["now", '{"a":']])),
        ('{"name": "no', Said(content='{"name": "no')),
    ],
)
def test_reading(text: str, said: Said) -> None:
    check(lambda: forced, text, said)


THINKS = 'tools <tool_call> "arguments" <think></think>'


@pytest.mark.parametrize(
    ("template", "prompt", "answering", "calling"),
    [
        (None, "p", "p", "p<tool_call>\n"),
        (THINKS, "p", "p<think>\n\n</think>\n\n", "p<think>\n\n</think>\n\n<tool_call>\n"),
        (THINKS, "p<think>\n", "p<think>\n\n</think>\n\n", "p<think>\n\n</think>\n\n<tool_call>\n"),
        (THINKS, "p<think></think>\n", "p<think></think>\n", "p<think></think>\n<tool_call>\n"),
        ("tools[TOOL_CALLS]", "p", "p", "p[TOOL_CALLS]["),
        (
            "tools<|channel|><|message|>",
            "p",
            "p<|channel|>final<|message|>",
            "p<|channel|>commentary<|message|>",
        ),
    ],
)
def test_prompts_go_past_the_thinking(
    template: str | None, prompt: str, answering: str, calling: str
) -> None:
    dialect = dialect_of(template)
    assert (dialect.answering(prompt), dialect.calling(prompt)) == (answering, calling)
