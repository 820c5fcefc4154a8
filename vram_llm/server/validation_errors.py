"""One sentence about a body that violates its schema: the field, the rule, the value."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from vram_llm.errors import RequestError
from vram_llm.server.errors import MissingField

_MOST_SHOWN = 60  # characters of a value
_Context = Mapping[str, Any]
_MUST: dict[str, Callable[[_Context], str]] = {  # by pydantic's type of error
    "string_type": lambda _: "must be a string",
    "int_type": lambda _: "must be an integer",
    "int_from_float": lambda _: "must be an integer",
    "int_parsing": lambda _: "must be an integer",
    "int_parsing_size": lambda _: "must be an integer of at most 64 bits",
    "float_type": lambda _: "must be a number",
    "float_parsing": lambda _: "must be a number",
    "finite_number": lambda _: "must be a finite number",
    "bool_type": lambda _: "must be true or false",
    "bool_parsing": lambda _: "must be true or false",
    "list_type": lambda _: "must be a list",
    "dict_type": lambda _: "must be an object",
    "model_type": lambda _: "must be an object",
    "model_attributes_type": lambda _: "must be an object",
    "none_required": lambda _: "must be left out, or null",
    "literal_error": lambda c: f"must be {c['expected']}",
    "greater_than_equal": lambda c: f"must be at least {_bound(c['ge'])}",
    "greater_than": lambda c: f"must be more than {_bound(c['gt'])}",
    "less_than_equal": lambda c: f"must be at most {_bound(c['le'])}",
    "less_than": lambda c: f"must be less than {_bound(c['lt'])}",
    "string_pattern_mismatch": lambda c: f"must match {c['pattern']}",
}
_LENGTH: dict[str, Callable[[_Context], str]] = {  # sentences without the value
    "too_long": lambda c: f"has {_many(c)} entries; {c['max_length']:,} is the most",
    "too_short": lambda c: (
        "is empty; send at least one entry"
        if not c["actual_length"]
        else f"has {c['actual_length']:,} entries; {c['min_length']:,} is the least"
    ),
    "string_too_long": lambda c: f"is longer than {c['max_length']:,} characters",
    "string_too_short": lambda c: (
        "is empty" if c["min_length"] == 1 else f"is shorter than {c['min_length']:,} characters"
    ),
}


def as_request_error(error: ValidationError) -> RequestError:
    """The first error of a body, as a sentence."""
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        return RequestError(f"The body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    param = path_of(first["loc"])
    if not param:
        return RequestError(f"The body must be a JSON {'list' if kind == 'list_type' else 'object'}")
    if kind == "missing":
        return MissingField(f"Missing required parameter: '{param}'", param)
    if kind in _LENGTH:
        return RequestError(f"'{param}' {_LENGTH[kind](context)}", param)
    must = _MUST[kind](context) if kind in _MUST else "has a value that cannot be used"
    return RequestError(f"'{param}' {must}, got {short_json(first['input'])}", param)


def path_of(location: tuple[int | str, ...]) -> str:
    """("messages", 2, "role") as "messages[2].role"."""
    path = ""
    for step in location:
        if step == "[key]":  # pydantic's mark of a key, if the key is invalid
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _many(context: _Context) -> str:
    n = context["actual_length"]
    return f"more than {context['max_length']:,}" if n is None else f"{n:,}"


def _bound(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else str(number)


def short_json(value: object) -> str:
    """A value as JSON, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
