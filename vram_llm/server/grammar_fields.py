"""Request fields that constrain the form of an answer.

`response_format` is OpenAI's, `grammar` and `json_schema` are llama-server's, `structured_outputs` and
`guided_*` are vLLM's, `format` is Ollama's.
"""

import json
from typing import Annotated, Any, ClassVar

from pydantic import Field, WithJsonSchema

from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.errors import RequestError
from vram_llm.server.implied_types import with_types
from vram_llm.server.known_fields import Fields, Neutral, check_names
from vram_llm.server.schema_formats import without_own_formats

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
_TEXT = {"type": "string"}
Schema = Annotated[Any, WithJsonSchema({"anyOf": [_OBJECT, _TEXT, {"type": "null"}]})]  # or its JSON text
Format = Annotated[Any, WithJsonSchema({"anyOf": [_OBJECT, {"enum": ["json", ""]}, {"type": "null"}]})]
_KINDS = ("text", "json_object", "json_schema")
_SCHEMA_FIELDS = {"name", "description", "schema", "strict", "type"}


class StructuredOutputs(Fields):
    """vLLM's object. At most one field may be set."""

    ignored: ClassVar[frozenset[str]] = frozenset({"disable_fallback"})
    not_yet: ClassVar[Neutral] = {
        "structural_tag": (), "whitespace_pattern": (), "disable_any_whitespace": (False,),
        "disable_additional_properties": (False,),
    }  # fmt: skip

    json_: Annotated[Schema, Field(alias="json")] = None
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None


class GrammarFields(Fields):
    """At most one of these fields may be set."""

    response_format: ResponseFormat = None
    grammar: str | None = None
    json_schema: Schema = None
    format: Format = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    def grammar_wanted(self) -> Grammar | None:
        """The grammar that the answer must match. Raises RequestError."""
        grammars = [
            grammar for grammar in map(self._of_field, GrammarFields.model_fields) if grammar is not None
        ]
        if len(grammars) > 1:
            raise RequestError(
                f"'{grammars[0].field}' and '{grammars[1].field}' both constrain the answer; "
                "send one of them",
                grammars[1].field,
            )
        if grammars and len(grammars[0].text) > MAX_GRAMMAR_CHARS:
            raise RequestError(
                f"'{grammars[0].field}' has {len(grammars[0].text):,} characters; at most "
                f"{MAX_GRAMMAR_CHARS:,} are taken",
                grammars[0].field,
            )
        return grammars[0] if grammars else None

    def _of_field(self, field: str) -> Grammar | None:
        value = getattr(self, field)
        if value is None or value == "":
            return None
        match field:
            case "response_format":
                return of_response_format(value)
            case "structured_outputs":
                return _of_structured(value)
            case "format":
                return _of_schema(_OBJECT if value == "json" else value, field, lenient=True)
            case "json_schema" | "guided_json":
                return _of_schema(value, field, lenient=True)
            case "guided_regex":
                return Grammar(kind=GrammarKind.REGEX, text=value, field=field)
            case "guided_choice":
                return _of_choice(value, field)
        return Grammar(kind=GrammarKind.GBNF, text=value, field=field)


def of_response_format(value: object) -> Grammar | None:
    """The grammar of OpenAI's field; llama-server's form, with the schema next to `type`, is read too.
    Raises RequestError.
    """
    field = "response_format"
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or kind not in _KINDS:
        raise RequestError(
            "'response_format' must be an object whose 'type' is 'text', 'json_object' or 'json_schema'",
            field,
        )
    check_names({name: value[name] for name in value if name not in ("type", "json_schema", "schema")}, field)
    if kind == "text":
        return None
    if kind == "json_object":
        return _of_schema(value.get("schema") or _OBJECT, field, lenient=True)
    wanted = value.get("json_schema") or value
    if not isinstance(wanted, dict) or "schema" not in wanted:
        raise RequestError("'response_format.json_schema' must be an object with a 'schema'", field)
    if wanted is not value:
        unknown = {name: wanted[name] for name in wanted if name not in _SCHEMA_FIELDS}
        check_names(unknown, f"{field}.json_schema")
    strict = wanted.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise RequestError("'response_format.json_schema.strict' must be true or false", field)
    return _of_schema(wanted["schema"], field, lenient=strict is not True)


def _of_structured(wanted: StructuredOutputs) -> Grammar | None:
    grammars = []
    if wanted.json_ is not None:
        grammars.append(_of_schema(wanted.json_, "structured_outputs.json", lenient=True))
    if wanted.json_object:
        grammars.append(_of_schema(_OBJECT, "structured_outputs.json_object", lenient=True))
    if wanted.regex:
        field = "structured_outputs.regex"
        grammars.append(Grammar(kind=GrammarKind.REGEX, text=wanted.regex, field=field))
    if wanted.choice is not None:
        grammars.append(_of_choice(wanted.choice, "structured_outputs.choice"))
    if wanted.grammar:
        field = "structured_outputs.grammar"
        grammars.append(Grammar(kind=GrammarKind.GBNF, text=wanted.grammar, field=field))
    if len(grammars) > 1:
        raise RequestError(
            f"'{grammars[0].field}' and '{grammars[1].field}' exclude each other; send one of them",
            grammars[1].field,
        )
    return grammars[0] if grammars else None


def _of_choice(strings: list[str], field: str) -> Grammar:
    if not strings:
        raise RequestError(f"'{field}' must hold at least one string", field)
    return Grammar(kind=GrammarKind.CHOICE, text=json.dumps(strings), field=field)


def _of_schema(schema: object, field: str, *, lenient: bool) -> Grammar:
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise RequestError(f"The schema in '{field}' is not valid JSON", field) from None
    if not isinstance(schema, dict):
        raise RequestError(f"The schema in '{field}' must be a JSON object", field)
    try:
        text = json.dumps(with_types(without_own_formats(schema)))
    except RecursionError:
        raise RequestError(f"The schema in '{field}' is nested too deeply; make it flatter", field) from None
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=text, field=field, lenient=lenient)
