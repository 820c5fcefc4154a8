"""The types that a JSON schema implies.

A number also satisfies {"properties": ...}; authors mean an object, and llama.cpp assumes one. A list as
`items`, used in drafts before 2020-12, becomes `prefixItems`.
"""

from collections.abc import Mapping
from typing import Any

_TYPE_KEYWORDS = frozenset({"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if"})
_OF_OBJECTS = frozenset({"properties", "patternProperties", "additionalProperties", "required"})
_OF_ARRAYS = frozenset({"items", "prefixItems", "additionalItems"})
_SINGLE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("prefixItems", "items", "anyOf", "oneOf", "allOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def with_types(schema: Any) -> Any:
    """The schema, and every schema inside it, with its implied type."""
    if not isinstance(schema, dict):
        return schema
    typed: dict[str, Any] = {**schema}
    for name in _SINGLE:
        if isinstance(typed.get(name), Mapping):
            typed[name] = with_types(typed[name])
    for name in _LISTS:
        if isinstance(typed.get(name), list):
            typed[name] = [with_types(item) for item in typed[name]]
    for name in _NAMED:
        if isinstance(typed.get(name), Mapping):
            typed[name] = {key: with_types(item) for key, item in typed[name].items()}
    if isinstance(typed.get("items"), list):
        typed["prefixItems"] = typed.pop("items")
        if "additionalItems" in typed:
            typed["items"] = typed.pop("additionalItems")
    if not _TYPE_KEYWORDS & typed.keys():
        if _OF_OBJECTS & typed.keys():
            typed["type"] = "object"
        elif _OF_ARRAYS & typed.keys():
            typed["type"] = "array"
    return typed
