"""Arguments that a model writes as tagged text, made into the JSON object that clients read."""

import json
from collections.abc import Mapping
from typing import Any

from vram_llm.chat.reader import SPACE, Reader, Wait

Schemas = Mapping[str, Mapping[str, Any]]  # a tool's name, and the JSON schema of its parameters
_PYTHON = {"True": "true", "False": "false", "None": "null"}  # how templates show them to the model


class ArgumentWriter:
    """Writes one call's arguments member by member. `schema` is that of its parameters, {} if unknown."""

    def __init__(self, r: Reader, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties")
        self._properties = properties if isinstance(properties, dict) else {}
        self._r = r
        self._empty = True
        r.arguments("{")

    def value(self, key: str, *markers: str) -> Wait[str]:
        """Write `key` with the text up to one of `markers`, which is returned; "" where none came.

        A string is passed on as it comes, everything else when it is complete.
        """
        self._r.arguments(("" if self._empty else ", ") + json.dumps(key, ensure_ascii=False) + ": ")
        self._empty = False
        schema = self._properties.get(key)
        if isinstance(schema, dict) and schema.get("type") == "string":
            self._r.arguments('"')
            marker = yield from self._r.until(*markers, to=lambda text: self._r.arguments(_escaped(text)))
            if marker:
                self._r.arguments('"')
            return marker
        pieces: list[str] = []
        marker = yield from self._r.until(*markers, to=pieces.append)
        if marker:
            self._r.arguments(as_json("".join(pieces), schema))
        return marker

    def close(self) -> None:
        """The call is complete."""
        self._r.arguments("}")
        self._r.end_call()


def as_json(text: str, schema: Any) -> str:
    """The JSON of a value written as text: itself where it is JSON and `schema` allows, or a string."""
    types = schema.get("type") if isinstance(schema, dict) else None
    bare = text.strip(SPACE)
    bare = _PYTHON.get(bare, bare)
    try:
        value = json.loads(bare, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    if isinstance(value, str) or (isinstance(types, list) and "string" in types and value is not None):
        return json.dumps(text, ensure_ascii=False)
    return bare


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _no_constant(name: str) -> None:
    raise ValueError(name)
