"""Every field that constrains the form of an answer, and the errors of invalid ones."""

import json
from typing import Any

import httpx
import pytest

from tests.server.fake_engine import FakeEngine
from vram_llm.engine.request import Grammar, GrammarKind
from vram_llm.errors import RequestError
from vram_llm.server.schemas import ChatCompletionRequest, parse

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def _wanted(**fields: Any) -> Grammar | None:
    return parse(ChatCompletionRequest, json.dumps({**HI, **fields}).encode()).grammar_wanted()


def _format(**json_schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", **json_schema}}}


@pytest.mark.parametrize(
    ("fields", "kind", "text", "lenient"),
    [
        (_format(schema=SCHEMA, strict=True), GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), False),
        (_format(schema=SCHEMA), GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), True),
        ({"response_format": {"type": "json_object"}}, GrammarKind.JSON_SCHEMA, '{"type": "object"}', True),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            GrammarKind.JSON_SCHEMA,
            json.dumps(SCHEMA),
            True,
        ),
        ({"json_schema": SCHEMA}, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), True),
        ({"guided_json": SCHEMA}, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), True),
        ({"grammar": 'root ::= "a"'}, GrammarKind.GBNF, 'root ::= "a"', False),
        ({"guided_grammar": 'start: "a"'}, GrammarKind.GBNF, 'start: "a"', False),
        ({"guided_regex": "a+"}, GrammarKind.REGEX, "a+", False),
        ({"guided_choice": ["a", "é"]}, GrammarKind.CHOICE, '["a", "\\u00e9"]', False),
        ({"guided_json": json.dumps(SCHEMA)}, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), True),
        ({"format": SCHEMA}, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), True),
        ({"format": "json"}, GrammarKind.JSON_SCHEMA, '{"type": "object"}', True),
        (
            {"response_format": {"type": "json_schema", "schema": SCHEMA}},
            GrammarKind.JSON_SCHEMA,
            json.dumps(SCHEMA),
            True,
        ),
    ],
    ids=str,
)
def test_the_grammar_of_a_field(fields: dict[str, Any], kind: GrammarKind, text: str, lenient: bool) -> None:
    assert _wanted(**fields) == Grammar(kind=kind, text=text, field=next(iter(fields)), lenient=lenient)


@pytest.mark.parametrize(
    ("name", "value", "kind", "text"),
    [
        ("json", SCHEMA, GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA)),
        ("json", json.dumps(SCHEMA), GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA)),
        ("json_object", True, GrammarKind.JSON_SCHEMA, '{"type": "object"}'),
        ("regex", "a+", GrammarKind.REGEX, "a+"),
        ("choice", ["a", "b"], GrammarKind.CHOICE, '["a", "b"]'),
        ("grammar", 'root ::= "a"', GrammarKind.GBNF, 'root ::= "a"'),
    ],
)
def test_vllms_structured_outputs(name: str, value: object, kind: GrammarKind, text: str) -> None:
    lenient = kind is GrammarKind.JSON_SCHEMA
    wanted = Grammar(kind=kind, text=text, field=f"structured_outputs.{name}", lenient=lenient)
    assert _wanted(structured_outputs={name: value}) == wanted


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"format": ""},
        {"structured_outputs": {}},
        {"structured_outputs": {"json_object": False, "disable_any_whitespace": False}},
        {"response_format": {"type": "text"}},
        {"response_format": None},
        {"grammar": ""},
        {"json_schema": None},
    ],
    ids=str,
)
def test_fields_without_a_grammar(fields: dict[str, Any]) -> None:
    assert _wanted(**fields) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (_format(), "response_format"),
        (_format(schema=[1]), "response_format"),
        ({"json_schema": "object"}, "json_schema"),
        ({"json_schema": '{"items":' * 980 + "{}" + "}" * 980}, "json_schema"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"format": "yaml"}, "format"),
        ({"grammar": "x", "guided_regex": "y"}, "guided_regex"),
        ({"grammar": "x" * 300_000}, "grammar"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        _wanted(**fields)
    assert caught.value.param == param
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "skips"), [(None, True), (True, True), (False, False)])
async def test_special_tokens(
    client: httpx.AsyncClient, engine: FakeEngine, given: bool | None, skips: bool
) -> None:
    await client.post("/v1/chat/completions", json={**HI, "skip_special_tokens": given})
    assert engine.requests[0].skip_special_tokens is skips


@pytest.mark.parametrize("stream", [False, True])
async def test_a_grammar_the_engine_refuses(
    client: httpx.AsyncClient, engine: FakeEngine, stream: bool
) -> None:
    engine.script = lambda _: [RequestError("no such rule", "grammar")]
    body = {**HI, "grammar": "root ::= x", "stream": stream}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "grammar"
    assert engine.requests[0].grammar is not None
