"""Fields that are not implemented: hints and neutral values pass, everything else is refused by name."""

import json
from typing import Any

import pytest

from vram_llm.errors import RequestError
from vram_llm.server.client_fields import CHAT_NEUTRAL, NEUTRAL
from vram_llm.server.errors import NotSupported, UnknownParameter
from vram_llm.server.known_fields import check_names
from vram_llm.server.schemas import ChatCompletionRequest, CompletionRequest, parse
from vram_llm.server.tokenizer_routes import DetokenizeFields, TokenizeFields

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}


def parsed(**fields: Any) -> ChatCompletionRequest:
    return parse(ChatCompletionRequest, json.dumps({**CHAT, **fields}).encode())


def read(**fields: Any) -> None:
    """All that a route reads of a request."""
    request = parsed(**fields)
    request.use()
    request.grammar_wanted()
    request.thinking_wanted()


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"temprature": 1}, "temprature"),
        ({"stream_options": {"foo": 1}}, "stream_options.foo"),
        ({"usage": {"details": True}}, "usage.details"),
        ({"reasoning": {"mode": "x"}}, "reasoning.mode"),
        ({"thinking": {"type": "enabled", "depth": 3}}, "thinking.depth"),
        ({"options": {"temprature": 1}}, "options.temprature"),
        ({"structured_outputs": {"yaml": "x"}}, "structured_outputs.yaml"),
        ({"tools": [{**TOOL, "mode": "x"}]}, "tools[0].mode"),
        ({"tools": [TOOL, {"type": "function", "function": {**FUNCTION, "timeout": 3}}]},
         "tools[1].function.timeout"),
        ({"functions": [{**FUNCTION, "timeout": 3}]}, "functions[0].timeout"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f", "by": 3}}},
         "tool_choice.function.by"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}, "by": 3}},
         "tool_choice.by"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [], "by": 3}}},
         "tool_choice.allowed_tools.by"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "tools": [{"type": "function", "function": {"name": "f", "by": 3}}]}}},
         "tool_choice.allowed_tools.tools[0].function.by"),
        ({"tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "text", "by": 3}}}]},
         "tools[0].custom.format.by"),
        ({"tools": [{"type": "custom", "custom": {"name": "c", "format": {
            "type": "grammar", "grammar": {"syntax": "regex", "definition": "a", "by": 3}}}}]},
         "tools[0].custom.format.grammar.by"),
        ({"response_format": {"type": "text", "by": 3}}, "response_format.by"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "by": 3}}},
         "response_format.json_schema.by"),
    ],
)  # fmt: skip
def test_unknown(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(UnknownParameter) as caught:
        read(**fields)
    assert str(caught.value) == f"Unrecognized request argument supplied: {path}"
    assert caught.value.param == path


@pytest.mark.parametrize(
    "fields",
    [
        {"temprature": None},
        {"stream_options": {"foo": None, "include_obfuscation": False}},
        {"tools": [{"type": "function", "function": {**FUNCTION, "cache_control": {"type": "ephemeral"}}}]},
        {"tools": [{**TOOL, "_meta": {"a": 1}}]},
        {"options": {"num_thread": 8, "num_gpu": 99, "tfs_z": 1.0}},
        {"provider": {"order": ["a"]}, "transforms": ["middle-out"], "route": "fallback", "models": ["a"]},
        {"ttl": 300, "draft_model": "x", "keep_alive": "5m"},
        {"id_slot": 0, "cache_prompt": False, "n_keep": -1, "sse_ping_interval": 5},
        {"priority": 3, "request_id": "r", "cache_salt": "s"},
        {"metadata": {"a": {"b": 1}}, "user": "u", "store": True},
        {"web_search_options": None, "prediction": None, "modalities": ["text"], "verbosity": "low"},
    ],
)
def test_neutral_fields(fields: dict[str, Any]) -> None:
    assert parsed(**fields).messages


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in (NEUTRAL | CHAT_NEUTRAL).items() for value in (None, *values)],
)
def test_neutral_values(name: str, value: object) -> None:
    assert parsed(**{name: value}).messages


@pytest.mark.parametrize("name", sorted({*NEUTRAL, *CHAT_NEUTRAL} - {*ChatCompletionRequest.model_fields}))
def test_other_values_of_the_same(name: str) -> None:
    with pytest.raises(NotSupported) as caught:
        parsed(**{name: "something else"})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("value", "neutral", "passes"),
    [(1, 1.0, True), (1.0, 1, True), (True, 1, False), (0, False, False), ([], [], True), ("", "", True)],
)
def test_numbers_may_be_written_in_two_ways(value: object, neutral: object, passes: bool) -> None:
    if passes:
        check_names({"a": value}, "", frozenset(), {"a": (neutral,)})
        return
    with pytest.raises(NotSupported):
        check_names({"a": value}, "at", frozenset(), {"a": (neutral,)})


def test_every_route_checks() -> None:
    for kind, body in (
        (CompletionRequest, {"prompt": "x"}),
        (TokenizeFields, {"content": "x"}),
        (DetokenizeFields, {"tokens": []}),
    ):
        parse(kind, json.dumps({**body, "user_id": "u", "unknown": None}).encode())
        with pytest.raises(RequestError):
            parse(kind, json.dumps({**body, "unknown": 1}).encode())
