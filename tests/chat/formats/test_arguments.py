"""Values that stand as text between tags, made JSON by the tool's schema."""

from typing import Any

import pytest

from vram_llm.chat.formats.arguments import as_json, types_of
from vram_llm.chat.formats.python_literal import json_of

STRING, NULL = {"type": "string"}, {"type": "null"}
ROOT = {"$defs": {"Name": STRING, "Loop": {"$ref": "#/$defs/Loop"}, "a/b": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        (None, None),
        ({}, None),
        (True, None),
        (STRING, {"string"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"anyOf": [STRING, NULL]}, {"string", "null"}),
        ({"oneOf": [STRING, {"anyOf": [NULL, {"type": "object"}]}]}, {"string", "null", "object"}),
        ({"anyOf": [STRING, {}]}, None),
        ({"enum": ["a", 1, None]}, {"string", "integer", "null"}),
        ({"const": 1.5}, {"number"}),
        ({"$ref": "#/$defs/Name"}, {"string"}),
        ({"$ref": "#/$defs/a~1b"}, {"integer"}),
        ({"$ref": "#/$defs/Loop"}, None),
        ({"$ref": "#/$defs/none"}, None),
        ({"$ref": "other.json"}, None),
    ],
)
def test_types(schema: Any, types: set[str] | None) -> None:
    assert types_of(schema, ROOT) == types


@pytest.mark.parametrize(
    ("text", "types", "written"),
    [
        ("5", None, "5"),
        ("5", {"string"}, '"5"'),
        ("5", {"string", "null"}, '"5"'),
        ("null", {"string", "null"}, "null"),
        ("None", {"string", "null"}, "null"),
        ("5", {"number"}, "5"),
        ("5", {"string", "integer"}, "5"),
        ('{"a": 1}', {"string", "object"}, '{"a": 1}'),
        ('{"a": 1}', {"string"}, '"{\\"a\\": 1}"'),
        ("1abc", {"integer"}, '"1abc"'),
        ('"quoted"', None, '"\\"quoted\\""'),
        ("True", {"boolean"}, "true"),
        (" 3\n", {"integer"}, "3"),
        ("['a', {'b': None}, (1, 2),]", {"array"}, '["a", {"b": null}, [1, 2]]'),
        ("{'a': \"it's\"}", {"object"}, '{"a": "it\'s"}'),
        ("[not python", {"array"}, '"[not python"'),
        ("[NaN]", {"array"}, '"[NaN]"'),
        ("NaN", None, '"NaN"'),
        ("[" * 5000, None, '"' + "[" * 5000 + '"'),
    ],
)
def test_values(text: str, types: set[str] | None, written: str) -> None:
    assert as_json(text, None if types is None else frozenset(types)) == written


@pytest.mark.parametrize("text", ["'open", "f(x)", "{1, 2}", "1 2", "a", "['\\ud800' 1]", ""])
def test_text_that_is_not_a_literal(text: str) -> None:
    assert json_of(text) is None


def test_half_of_a_pair_is_replaced() -> None:
    assert json_of("'\\ud800'") == '"\ufffd"'
