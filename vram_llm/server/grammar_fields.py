"""The fields of a request that say what form an answer has to have.

`response_format` is OpenAI's, `grammar` and `json_schema` are llama-server's, `guided_*` are vLLM's.
"""

import json
from typing import Annotated, Any

from pydantic import BaseModel, WithJsonSchema

from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.errors import RequestError

MAX_GRAMMAR_CHARS = 200_000
_OBJECT = {"type": "object"}

ResponseFormat = Annotated[
    Any,
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "type": {"enum": ["text", "json_object", "json_schema"]},
                "json_schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "schema": _OBJECT,
                        "strict": {"type": "boolean"},
                    },
                },
            },
            "required": ["type"],
        }
    ),
]
Schema = Annotated[Any, WithJsonSchema(_OBJECT)]


class GrammarFields(BaseModel):
    """At most one of these may be given."""

    response_format: ResponseFormat = None
    grammar: str | None = None
    json_schema: Schema = None
    guided_json: Schema = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    def grammar_wanted(self) -> Grammar | None:
        """What the answer has to be. Raises RequestError."""
        found = [one for one in (self._of_field(name) for name in GrammarFields.model_fields) if one]
        if len(found) > 1:
            raise RequestError(
                f"'{found[0].field}' and '{found[1].field}' both say what the answer has to be; "
                "send one of them",
                found[1].field,
            )
        if found and len(found[0].text) > MAX_GRAMMAR_CHARS:
            raise RequestError(
                f"'{found[0].field}' has {len(found[0].text):,} characters; at most {MAX_GRAMMAR_CHARS:,} "
                "are taken",
                found[0].field,
            )
        return found[0] if found else None

    def _of_field(self, field: str) -> Grammar | None:
        value = getattr(self, field)
        if value is None or value == "":
            return None
        if field == "response_format":
            return of_response_format(value)
        if field in ("json_schema", "guided_json"):
            return _of_schema(value, field, lenient=True)
        if field == "guided_regex":
            return Grammar(kind=GrammarKind.REGEX, text=value, field=field)
        if field == "guided_choice":
            if not value:
                raise RequestError("'guided_choice' must hold at least one string", field)
            return Grammar(kind=GrammarKind.CHOICE, text=json.dumps(value), field=field)
        return Grammar(kind=GrammarKind.GBNF, text=value, field=field)


def of_response_format(value: object) -> Grammar | None:
    """What OpenAI's field says. Raises RequestError."""
    field = "response_format"
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or kind not in ("text", "json_object", "json_schema"):
        raise RequestError(
            "'response_format' must be an object whose 'type' is 'text', 'json_object' or 'json_schema'",
            field,
        )
    if kind == "text":
        return None
    if kind == "json_object":
        return _of_schema(value.get("schema", _OBJECT), field, lenient=True)
    wanted = value.get("json_schema")
    if not isinstance(wanted, dict) or "schema" not in wanted:
        raise RequestError("'response_format.json_schema' must be an object with a 'schema'", field)
    return _of_schema(wanted["schema"], field, lenient=wanted.get("strict") is not True)


def _of_schema(schema: object, field: str, *, lenient: bool) -> Grammar:
    if not isinstance(schema, dict):
        raise RequestError(f"The schema in '{field}' must be a JSON object", field)
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(schema), field=field, lenient=lenient)
