"""Types that a schema implies."""

from typing import Any

import pytest

from vram_llm.server.implied_types import with_types

INTEGER = {"type": "integer"}
PAIR = {"type": "array", "prefixItems": [INTEGER, {}]}


@pytest.mark.parametrize(
    ("schema", "meant"),
    [
        ({}, {}),
        ({"description": "anything"}, {"description": "anything"}),
        ({"properties": {"a": INTEGER}}, {"properties": {"a": INTEGER}, "type": "object"}),
        ({"required": ["a"]}, {"required": ["a"], "type": "object"}),
        ({"items": INTEGER}, {"items": INTEGER, "type": "array"}),
        ({"items": [INTEGER, {}]}, PAIR),
        ({"items": [INTEGER, {}], "additionalItems": False}, {**PAIR, "items": False}),
        ({"prefixItems": [INTEGER, {}]}, PAIR),
        (
            {"type": "object", "properties": {"a": {"items": INTEGER}}},
            {"type": "object", "properties": {"a": {"items": INTEGER, "type": "array"}}},
        ),
        (
            {"anyOf": [{"properties": {}}, {"type": "null"}]},
            {"anyOf": [{"properties": {}, "type": "object"}, {"type": "null"}]},
        ),
        (
            {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {}}}},
            {"$ref": "#/$defs/a", "$defs": {"a": {"properties": {}, "type": "object"}}},
        ),
        ({"type": ["object", "null"], "properties": {}}, {"type": ["object", "null"], "properties": {}}),
        ({"enum": [1], "properties": {}}, {"enum": [1], "properties": {}}),
        (  # a property by the name of a keyword
            {"properties": {"items": [1], "type": INTEGER}},
            {"properties": {"items": [1], "type": INTEGER}, "type": "object"},
        ),
    ],
)
def test_implied_types(schema: dict[str, Any], meant: dict[str, Any]) -> None:
    assert with_types(schema) == meant
