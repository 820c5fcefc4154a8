"""Arguments that a model writes as tagged text, converted to the JSON object that clients read."""

import json
from collections.abc import Mapping
from typing import Any

from vram_llm.chat.formats.python_literal import json_of
from vram_llm.chat.reader import SPACE, Reader, Wait

Schemas = Mapping[str, Mapping[str, Any]]  # a tool's name, and the JSON schema of its parameters
Types = frozenset[str]
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # how templates show them to the model
_STRING = frozenset({"string"})
_MAX_REFERENCES = 8


class ArgumentWriter:
    """Writes one call's arguments member by member. `schema` is that of its parameters, {} if unknown."""

    def __init__(self, r: Reader, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._r = r
        self._empty = True
        r.arguments("{")

    def key(self, key: str) -> None:
        """Write `key`. Its value must be written next."""
        self._r.arguments(("" if self._empty else ", ") + json.dumps(key, ensure_ascii=False) + ": ")
        self._empty = False

    def value(self, key: str, *markers: str, is_string: bool | None = None) -> Wait[str]:
        """Write `key` with the text up to one of `markers`. Returns the marker; "" if none came.

        A string is passed on piece by piece, another value when it is complete. `is_string` None: the schema
        decides.
        """
        self.key(key)
        types = types_of(member(self._schema, key), self._schema) if is_string is None else None
        if is_string or types == _STRING:
            return (yield from string_value(self._r, *markers))
        return (yield from self._typed(types, *markers))

    def _typed(self, types: Types | None, *markers: str) -> Wait[str]:
        pieces: list[str] = []
        marker = yield from self._r.until(*markers, to=pieces.append)
        if marker:
            self._r.arguments(as_json("".join(pieces), types))
        return marker

    def close(self) -> None:
        """Complete the call."""
        self._r.arguments("}")
        self._r.end_call()


def string_value(r: Reader, *markers: str) -> Wait[str]:
    """Write the text up to one of `markers` as a JSON string, piece by piece."""
    r.arguments('"')
    marker = yield from r.until(*markers, to=lambda text: r.arguments(escaped(text)))
    if marker:
        r.arguments('"')
    return marker


def escaped(text: str) -> str:
    """Text as written within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def member(schema: Any, key: str) -> Any:
    """The schema of a member of an object; None if unknown."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties.get(key) if isinstance(properties, Mapping) else None


def types_of(schema: Any, root: Any) -> Types | None:
    """The JSON types that `schema` allows, by their names in JSON Schema; None if unknown.

    `root` is the schema in which local references begin.
    """
    schema = resolve_reference(schema, root)
    if not isinstance(schema, Mapping):
        return None
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    if isinstance(declared, list):
        return frozenset(name for name in declared if isinstance(name, str))
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(choices, list) and choices:
            options = [types_of(choice, root) for choice in choices]
            return None if None in options else frozenset().union(*(types for types in options if types))
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return frozenset(map(_type_of, values)) if isinstance(values, list) and values else None


def resolve_reference(schema: Any, root: Any) -> Any:
    """`schema`, or the schema that it refers to within `root`."""
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        schema = root
        for step in reference[2:].split("/"):
            schema = (
                schema.get(step.replace("~1", "/").replace("~0", "~"))
                if isinstance(schema, Mapping)
                else None
            )
    return None


def as_json(text: str, types: Types | None) -> str:
    """The JSON of a value written as text: the text itself if it is JSON of one of `types`, else a string."""
    bare = text.strip(SPACE)
    bare = _PYTHON.get(bare, bare)
    try:
        value = json.loads(bare, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        literal = json_of(bare) if bare[:1] in ("[", "{", "(") else None
        if literal is None:
            return json.dumps(text, ensure_ascii=False)
        bare, value = literal, json.loads(literal)
    if types is None:
        return json.dumps(text, ensure_ascii=False) if isinstance(value, str) else bare
    fits = _type_of(value) in types or (isinstance(value, int) and "number" in types)
    if "string" in types and (isinstance(value, str) or not fits):
        return json.dumps(text, ensure_ascii=False)
    return bare


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    for kind, name in ((str, "string"), (int, "integer"), (float, "number"), (Mapping, "object")):
        if isinstance(value, kind):
            return name
    return "array"


def _no_constant(name: str) -> None:
    raise ValueError(name)
