"""Chats with tools and thinking."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.server.fake_engine import FakeEngine, says
from tests.server.test_chat import lines
from tests.server.tool_chat import ARGUMENTS, FUNCTION, PARAMETERS, PIECES, TALKER, TOOLS
from vram_llm.engine.request import FinishReason

HI = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(says(*PIECES), TALKER)


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={**HI, "tools": TOOLS, **fields})


async def test_calls(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = (await ask(client)).json()
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    first, second = message["tool_calls"]
    assert message["content"] == "One moment."
    assert message["reasoning_content"] == "I should look."
    assert first["type"] == "function"
    assert first["function"] == {"name": "get_weather", "arguments": ARGUMENTS}
    assert second["function"] == {"name": "now", "arguments": "{}"}
    assert first["id"] != second["id"]
    assert reply["usage"]["completion_tokens"] == len(PIECES)
    assert engine.requests[0].prompt == "get_weather [user]hi"
    assert "<tool_call>" in engine.requests[0].marks


async def test_streamed_calls(client: httpx.AsyncClient) -> None:
    chunks = lines(await ask(client, stream=True))[:-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(d.get("content") or "" for d in deltas) == "One moment."
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "I should look."
    calls = [call for d in deltas for call in d.get("tool_calls", [])]
    begun = [call for call in calls if "id" in call]
    assert [(c["index"], c["type"], c["function"]["name"]) for c in begun] == [
        (0, "function", "get_weather"),
        (1, "function", "now"),
    ]
    first = [c["function"]["arguments"] for c in calls if c["index"] == 0]
    assert "".join(first) == ARGUMENTS
    assert len([text for text in first if text]) == 3  # as they come, not all at once
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_without_text_content_is_null(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says('<tool_call>{"name": "now", "arguments": {}}</tool_call>')
    message = (await ask(client)).json()["choices"][0]["message"]
    assert message["content"] is None
    assert "reasoning_content" not in message


@pytest.mark.parametrize("stream", [False, True])
async def test_at_most_one_call(client: httpx.AsyncClient, engine: FakeEngine, stream: bool) -> None:
    response = await ask(client, parallel_tool_calls=False, stream=stream, n=2)
    if stream:
        begun = [
            (chunk["choices"][0]["index"], call["function"]["name"])
            for chunk in lines(response)[:-1]
            for call in chunk["choices"][0]["delta"].get("tool_calls", [])
            if "id" in call
        ]
    else:
        begun = [
            (choice["index"], call["function"]["name"])
            for choice in response.json()["choices"]
            for call in choice["message"]["tool_calls"]
        ]
    assert sorted(begun) == [(0, "get_weather"), (1, "get_weather")]
    assert len(engine.cancelled) == 2  # what would have come after it is not computed


async def test_no_tools_no_calls(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    without: list[dict[str, Any]] = [{"tool_choice": "none"}, {"tools": []}]
    for fields in without:
        choice = (await ask(client, **fields)).json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["content"].startswith("One moment.\n\n<tool_call>")
        assert "tool_calls" not in choice["message"]
        assert engine.requests[-1].prompt == "[user]hi"


async def test_a_call_cut_short(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES[:9], ending=FinishReason.LENGTH)
    choice = (await ask(client)).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Par'


async def test_reasoning_tokens_are_counted(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says("<think>", "a", "b", "</think>", "c", "d")
    usage = (await ask(client)).json()["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}


async def test_calls_can_be_sent_back(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    message = (await ask(client)).json()["choices"][0]["message"]
    answers = [{"role": "tool", "tool_call_id": c["id"], "content": "sun"} for c in message["tool_calls"]]
    assert (await ask(client, messages=[*HI["messages"], message, *answers])).status_code == 200
    first, second = (call["id"] for call in message["tool_calls"])
    assert engine.requests[-1].prompt == (
        "get_weather [user]hi[assistant]I should look.One moment."
        f'{first} {{"city": "Paris"}}{second} {{}}[tool]sun[tool]sun'
    )


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"reasoning_effort": "high"}, "hi"),
        ({"reasoning_effort": "none"}, "False"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "False"),
        ({}, "hi"),
    ],
)
async def test_efforts(client: httpx.AsyncClient, engine: FakeEngine, fields: Any, end: str) -> None:
    await ask(client, **fields)
    assert str(engine.requests[0].prompt).endswith(end)


@pytest.mark.parametrize("effort", ["none", "low"])
async def test_efforts_have_no_effect_if_the_template_has_none(
    client: httpx.AsyncClient, engine: FakeEngine, effort: str
) -> None:
    engine.info = replace(TALKER, chat_template=None)
    response = await client.post("/v1/chat/completions", json={**HI, "reasoning_effort": effort})
    assert response.status_code == 200


async def test_efforts_are_refused_if_thinking_is_not_parsed(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.info = replace(TALKER, chat_template="{{ messages[0].content }}{{ enable_thinking }}")
    response = await client.post("/v1/chat/completions", json={**HI, "reasoning_effort": "low"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "reasoning_effort"
    response = await client.post("/v1/chat/completions", json={**HI, "reasoning_effort": "none"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("begun", "added"), [("", "<think>\n\n</think>\n\n"), ("<think>\n", "\n</think>\n\n")]
)
async def test_no_effort_closes_thinking_without_a_switch(
    client: httpx.AsyncClient, engine: FakeEngine, begun: str, added: str
) -> None:
    source = "{{ messages[0].content.split('</think>')[-1] }}{{ '" + begun.replace("\n", "\\n") + "' }}"
    engine.info = replace(TALKER, chat_template=source)
    await client.post("/v1/chat/completions", json={**HI, "reasoning_effort": "none"})
    assert engine.requests[0].prompt == f"hi{begun}{added}"


async def test_names_of_the_servers_own_are_refused(client: httpx.AsyncClient) -> None:
    response = await ask(client, chat_template_kwargs={"messages": []})
    assert response.json()["error"]["param"] == "chat_template_kwargs"


async def test_tools_for_a_template_without_tools(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(TALKER, chat_template=None)
    engine.script = says(f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>')
    (call,) = (await ask(client)).json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == ARGUMENTS
    assert json.dumps(TOOLS[0]["function"]) in str(engine.requests[0].prompt)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_forced_call_has_a_grammar(
    client: httpx.AsyncClient, engine: FakeEngine, choice: Any, stream: bool
) -> None:
    engine.script = says('{"name": "get_weather", "argum', 'ents": {"city": ', '"Paris"}', "}")
    response = await ask(client, tool_choice=choice, stream=stream)
    if stream:
        deltas = [chunk["choices"][0]["delta"] for chunk in lines(response)[:-1]]
        pieces = [call["function"] for delta in deltas for call in delta.get("tool_calls", [])]
        assert pieces[0]["name"] == "get_weather"
        assert "".join(piece["arguments"] for piece in pieces) == ARGUMENTS
    else:
        (call,) = response.json()["choices"][0]["message"]["tool_calls"]
        assert call["function"] == {"name": "get_weather", "arguments": ARGUMENTS}
    request = engine.requests[0]
    assert request.grammar is not None
    assert '"get_weather"' in request.grammar.text
    assert json.dumps(PARAMETERS["properties"]) in request.grammar.text
    assert request.prompt == "get_weather [user]hi<think>\n\n</think>\n\n<tool_call>\n"


async def test_an_answer_of_a_form_has_no_thinking(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says('{"a": 1}')
    wanted = {"type": "json_object"}
    reply = (await ask(client, tools=[], response_format=wanted)).json()
    assert reply["choices"][0]["message"]["content"] == '{"a": 1}'
    assert engine.requests[0].prompt == "[user]hi<think>\n\n</think>\n\n"
    assert engine.requests[0].grammar is not None


@pytest.mark.parametrize(
    ("pieces", "content", "calls"),
    [
        (('{"a"', ": 1}"), '{"a": 1}', []),
        (('<tool_call>{"name": "get_weather", "argum', f'ents": {ARGUMENTS}}}'), None, [ARGUMENTS]),
    ],
)
async def test_a_call_or_an_answer_of_a_form(
    client: httpx.AsyncClient, engine: FakeEngine, pieces: Any, content: str | None, calls: list[str]
) -> None:
    engine.script = says(*pieces)
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    message = (await ask(client, response_format=wanted)).json()["choices"][0]["message"]
    assert message["content"] == content
    assert [call["function"]["arguments"] for call in message.get("tool_calls", [])] == calls
    (request,) = engine.requests
    assert str(request.prompt).endswith("<think>\n\n</think>\n\n")
    assert request.grammar is not None
    assert request.grammar.answer is not None
    assert request.grammar.answer.field == "response_format"


async def test_a_forced_call_replaces_a_form(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}')
    reply = (await ask(client, tool_choice="required", response_format={"type": "json_object"})).json()
    assert reply["choices"][0]["finish_reason"] == "tool_calls"


async def test_only_strict_tools_constrain_an_answer(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says("Hello.")
    for strict in (False, True):
        tools = [{"type": "function", "function": {**FUNCTION, "strict": strict}}]
        await ask(client, tools=tools)
        request = engine.requests[-1]
        assert (request.grammar is not None) is strict
        assert request.prompt == "get_weather [user]hi"  # it may think


async def test_tokens_of_marks_are_no_thinking(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says("<think>I", " think.", "</thi", "nk>", "\n\n", "Hi")
    reply = (await ask(client)).json()
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 2
