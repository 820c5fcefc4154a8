"""A call that the model must make: the grammar its answer is held to, whatever its template speaks."""

import json
from collections.abc import Mapping
from typing import Any

from vram_llm.chat.formats.call_json import Outcome, call_object
from vram_llm.chat.reader import Grammar, Reader, Wait


def call_schema(schemas: Mapping[str, Mapping[str, Any]], only: str | None) -> str:
    """The JSON schema of a call of one of the tools, or of `only` that one.

    Each tool's own schema keeps its definitions: its references are led to where it now stands.
    """
    names = [name for name in schemas if only in (None, name)]
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{i}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for i, name in enumerate(names)
    ]
    definitions = {str(i): _moved(_object(schemas[name]), f"#/$defs/{i}") for i, name in enumerate(names)}
    return json.dumps({"$defs": definitions, "anyOf": calls})


def forced(r: Reader) -> Wait[None]:
    """Reads what the grammar lets through: one call, and nothing else."""
    r.mark()
    yield from r.spaces()
    outcome = yield from call_object(r)
    if outcome is Outcome.BROKEN:  # cut short
        yield from r.rest(r.arguments)
    elif outcome is Outcome.NONE:
        r.back()
        yield from r.rest(r.content)


def text_call(name: str) -> Grammar:
    """Reads a call of a tool that takes one text, where the answer is that text and nothing else."""

    def read(r: Reader) -> Wait[None]:
        yield from r.peek()
        r.start_call(name)
        r.arguments('{"input": "')
        yield from r.rest(lambda text: r.arguments(json.dumps(text, ensure_ascii=False)[1:-1]))
        r.arguments('"}')
        r.end_call()

    return read


def _object(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments are an object, even where the schema forgets to say so."""
    return {**schema, "type": "object"}


def _moved(schema: Any, root: str) -> Any:
    if isinstance(schema, dict):
        return {
            key: root + value[1:] if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, root)
            for key, value in schema.items()
        }  # fmt: skip
    return [_moved(each, root) for each in schema] if isinstance(schema, list) else schema
