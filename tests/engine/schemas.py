"""Nested JSON schemas that always come to an end: every list, string and number in them is bounded."""

import random
from typing import Any

Schema = dict[str, Any]


def nested_schema(seed: int, depth: int = 3) -> Schema:
    """An object of objects, lists and choices; the same one for a seed."""
    return _object(random.Random(seed), depth)


def _object(pick: random.Random, depth: int) -> Schema:
    names = pick.sample(["name", "size", "tags", "owner", "état", "is_on", "path", 'z"q'], pick.randint(1, 3))
    schema: Schema = {
        "type": "object",
        "properties": {name: _any(pick, depth - 1) for name in names},
        "required": names[: pick.randint(1, len(names))],
        "additionalProperties": False,
    }
    return schema


def _any(pick: random.Random, depth: int) -> Schema:
    if depth > 0 and pick.random() < 0.75:
        if pick.random() < 0.6:
            return _object(pick, depth)
        least = pick.randint(0, 2)
        return {"type": "array", "items": _any(pick, depth - 1), "minItems": least, "maxItems": least + 1}
    return pick.choice(
        [
            {"type": "string", "minLength": 1, "maxLength": 12},
            {"type": "string", "pattern": "^[a-f]{2,4}-[0-9]{2}$"},
            {"type": "integer", "minimum": -50, "maximum": 1000},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["red", "green", 7, None]},
            {"anyOf": [{"const": "all"}, {"type": "integer", "minimum": 0, "maximum": 9}]},
        ]
    )
