"""Types that a JSON schema leaves out but means.

A number meets {"properties": ...} too, by JSON Schema; but an object is meant, and llama.cpp reads it so. A
list as `items`, as drafts before 2020-12 have it, is `prefixItems`.
"""

from collections.abc import Mapping
from typing import Any

_SAYS_WHAT = frozenset({"type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if"})
_OF_OBJECTS = frozenset({"properties", "patternProperties", "additionalProperties", "required"})
_OF_ARRAYS = frozenset({"items", "prefixItems", "additionalItems"})
_ONE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("prefixItems", "items", "anyOf", "oneOf", "allOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")


def with_types(schema: Any) -> Any:
    """The schema with the types it means, and so all schemas in it."""
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {**schema}
    for name in _ONE:
        if isinstance(found.get(name), Mapping):
            found[name] = with_types(found[name])
    for name in _LISTS:
        if isinstance(found.get(name), list):
            found[name] = [with_types(each) for each in found[name]]
    for name in _NAMED:
        if isinstance(found.get(name), Mapping):
            found[name] = {key: with_types(each) for key, each in found[name].items()}
    if isinstance(found.get("items"), list):
        found["prefixItems"] = found.pop("items")
        if "additionalItems" in found:
            found["items"] = found.pop("additionalItems")
    if not _SAYS_WHAT & found.keys():
        if _OF_OBJECTS & found.keys():
            found["type"] = "object"
        elif _OF_ARRAYS & found.keys():
            found["type"] = "array"
    return found
