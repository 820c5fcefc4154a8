"""Answers written as a request wants them: older calls, custom tools, thinking hidden or in the content."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import FakeEngine, says
from tests.server.test_chat import lines
from tests.server.tool_chat import ARGUMENTS, FUNCTION, PIECES, TALKER, TOOLS
from vram_llm.engine.request import FinishReason
from vram_llm.server.config import ReasoningFormat

HI = {"messages": [{"role": "user", "content": "hi"}]}
CLOSED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
THOUGHT = "I should look."


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(says(*PIECES), TALKER)


async def answered(client: httpx.AsyncClient, *, stream: bool, **fields: Any) -> dict[str, Any]:
    """The message, joined from its chunks if it was streamed, with its `finish_reason`."""
    response = await client.post("/v1/chat/completions", json={**HI, "stream": stream, **fields})
    assert response.status_code == 200, response.text
    if not stream:
        (choice,) = response.json()["choices"]
        return {**choice["message"], "finish_reason": choice["finish_reason"]}
    choices = [chunk["choices"][0] for chunk in lines(response)[:-1]]
    deltas = [choice["delta"] for choice in choices]
    message: dict[str, Any] = {
        "content": "".join(delta.get("content") or "" for delta in deltas),
        "finish_reason": choices[-1]["finish_reason"],
    }
    for name in ("function_call", "tool_calls"):
        if found := [delta[name] for delta in deltas if name in delta]:
            message[name] = _joined(found) if name == "function_call" else list(_calls([*chain(*found)]))
    if any("reasoning_content" in delta for delta in deltas):
        message["reasoning_content"] = "".join(delta.get("reasoning_content", "") for delta in deltas)
    return message


def _calls(pieces: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for index in sorted({piece["index"] for piece in pieces}):
        own = [piece for piece in pieces if piece["index"] == index]
        kind = own[0]["type"]
        yield {"id": own[0]["id"], "type": kind, kind: _joined([piece[kind] for piece in own])}


def _joined(pieces: list[dict[str, str]]) -> dict[str, str]:
    whole = dict(pieces[0])
    for piece in pieces[1:]:
        for name, text in piece.items():
            whole[name] += text
    return whole


@pytest.mark.parametrize("stream", [False, True])
async def test_older_functions(client: httpx.AsyncClient, engine: FakeEngine, stream: bool) -> None:
    message = await answered(client, stream=stream, functions=[FUNCTION])
    assert message["function_call"] == {"name": "get_weather", "arguments": ARGUMENTS}
    assert message["finish_reason"] == "function_call"
    assert "tool_calls" not in message
    assert str(engine.requests[0].prompt).startswith("get_weather ")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"function_call": {"name": "other"}}, "function_call"),
        ({"function_call": "sometimes"}, "function_call"),
        ({"tools": TOOLS}, "functions"),
    ],
)
async def test_older_functions_refused(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/v1/chat/completions", json={**HI, "functions": [FUNCTION], **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_an_older_forced_call(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(json.dumps({"name": "get_weather", "arguments": json.loads(ARGUMENTS)}))
    message = await answered(
        client, stream=False, functions=[FUNCTION], function_call={"name": "get_weather"}
    )
    assert message["function_call"]["name"] == "get_weather"
    assert engine.requests[0].grammar is not None


@pytest.mark.parametrize("stream", [False, True])
async def test_custom_tools(client: httpx.AsyncClient, engine: FakeEngine, stream: bool) -> None:
    engine.script = says(
        '<tool_call>{"name": "patch", "arguments": {"in', 'put": "a\\n', '\\"b"}}</tool_call>'
    )
    tools = [{"type": "custom", "custom": {"name": "patch", "description": "d"}}]
    message = await answered(client, stream=stream, tools=tools)
    (call,) = message["tool_calls"]
    assert (call["type"], call["custom"]) == ("custom", {"name": "patch", "input": 'a\n"b'})
    assert message["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "a\\n', "a\n"),
        (r'{"input": "a\d b', r"a\d b"),
        ('{"patch": "a', '{"patch": "a'),
    ],
)
async def test_a_custom_tools_text_cut_short(
    client: httpx.AsyncClient, engine: FakeEngine, arguments: str, text: str, stream: bool
) -> None:
    begun = '<tool_call>{"name": "patch", "arguments": '
    engine.script = says(begun, arguments, ending=FinishReason.LENGTH)
    tools = [{"type": "custom", "custom": {"name": "patch"}}]
    message = await answered(client, stream=stream, tools=tools)
    assert message["tool_calls"][0]["custom"] == {"name": "patch", "input": text}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields", [{"reasoning": {"exclude": True}}, {"include_reasoning": False}, {"reasoning_format": "hidden"}]
)
async def test_thinking_left_out(client: httpx.AsyncClient, fields: dict[str, Any], stream: bool) -> None:
    message = await answered(client, stream=stream, tools=TOOLS, **fields)
    assert "reasoning_content" not in message
    assert message["content"] == "One moment."


async def test_thinking_left_out_is_counted(client: httpx.AsyncClient) -> None:
    body = {**HI, "tools": TOOLS, "reasoning": {"exclude": True}}
    usage = (await client.post("/v1/chat/completions", json=body)).json()["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tools", [[], TOOLS])
async def test_thinking_in_the_content(client: httpx.AsyncClient, tools: list[Any], stream: bool) -> None:
    message = await answered(client, stream=stream, tools=tools, reasoning_format="none")
    assert "reasoning_content" not in message
    assert message["content"].startswith(f"<think>{THOUGHT}</think>")
    assert "One moment." in message["content"]
    assert ("tool_calls" in message) is bool(tools)


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_in_the_content_by_default(connect: Connect, stream: bool) -> None:
    client = connect(reasoning_format=ReasoningFormat.NONE)
    message = await answered(client, stream=stream, tools=TOOLS)
    assert message["content"].startswith(f"<think>{THOUGHT}</think>")
    message = await answered(client, stream=stream, tools=TOOLS, reasoning_format="deepseek")
    assert message["reasoning_content"] == THOUGHT


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({}, "[user]hi"),
        ({"think": False}, "False"),
        ({"reasoning": {"enabled": False}}, "False"),
        ({"thinking": {"type": "disabled"}}, "False"),
        ({"enable_thinking": True}, "[user]hi"),
        ({"reasoning_effort": "low"}, "[user]hi"),
    ],
)
async def test_switches_reach_the_template(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], ends: str
) -> None:
    await answered(client, stream=False, **fields)
    assert str(engine.requests[0].prompt).endswith(ends)


async def test_a_budget_of_the_request(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await answered(client, stream=False, reasoning={"max_tokens": 9})
    assert engine.requests[0].reasoning_budget is not None
    assert engine.requests[0].reasoning_budget.n_tokens == 9


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        ({}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
        ({"continue_final_message": False}, False),
        ({"add_generation_prompt": True}, False),
    ],
)
async def test_a_last_message_of_the_assistants(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], continues: bool
) -> None:
    engine.info = replace(TALKER, chat_template=CLOSED)
    messages = [*HI["messages"], {"role": "assistant", "content": "Well,"}]
    await answered(client, stream=False, messages=messages, **fields)
    prompt = str(engine.requests[0].prompt)
    assert prompt.endswith("Well," if continues else "<assistant>")
    body = {"messages": messages, **fields}
    assert (await client.post("/apply-template", json=body)).json()["prompt"] == prompt


async def test_parts_that_are_continued_are_paragraphs(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(TALKER, chat_template=CLOSED)
    parts = [{"type": "text", "text": "Well,"}, {"type": "text", "text": "then"}]
    await answered(client, stream=False, messages=[*HI["messages"], {"role": "assistant", "content": parts}])
    assert str(engine.requests[0].prompt).endswith("Well,\n\nthen")


@pytest.mark.parametrize(
    ("fields", "status"),
    [({}, 400), ({"continue_final_message": True}, 200), ({"add_generation_prompt": True}, 200)],
)
async def test_two_messages_of_the_assistants_at_the_end(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], status: int
) -> None:
    """The request must choose one of them."""
    engine.info = replace(TALKER, chat_template=CLOSED)
    own = [{"role": "assistant", "content": "Well,"}, {"role": "assistant", "content": "then"}]
    body = {**HI, "messages": [*HI["messages"], *own], **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == status
    assert status == 200 or "ends with two assistant messages" in response.json()["error"]["message"]


async def test_both_ways_to_go_on_at_once(client: httpx.AsyncClient) -> None:
    body = {**HI, "continue_final_message": True, "add_generation_prompt": True}
    response = await client.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "continue_final_message")


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"min_tokens": 3}, "min_tokens", 3),
        ({"stop_token_ids": [7]}, "stop_token_ids", (7,)),
        ({"n_predict": 8}, "max_tokens", 8),
        ({"max_tokens": -1}, "max_tokens", None),
        ({"options": {"stop": ["x"]}}, "stop", ("x",)),
        ({"n_probs": 2}, "logprobs", 2),
        ({"num_ctx": 512}, "max_tokens", None),
    ],
)
async def test_the_engine_gets_the_settings(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], name: str, value: object
) -> None:
    engine.script = says("x")
    await answered(client, stream=False, **fields)
    assert getattr(engine.requests[0], name) == value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"num_ctx": 513}, "num_ctx"),
        ({"options": {"num_ctx": 8192}}, "options.num_ctx"),
        ({"min_tokens": 3, "max_tokens": 2}, "min_tokens"),
        ({"stop_token_ids": [100]}, "stop_token_ids[0]"),
    ],
)
async def test_refused(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/v1/chat/completions", json={**HI, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_bias_by_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await answered(client, stream=False, logit_bias=[["AB", -5], [3, False]])
    assert engine.requests[0].sampling.logit_bias == {65: -5.0, 66: -5.0, 3: float("-inf")}


async def test_texts_to_bias_are_bounded(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    biases = [["a" * 2**19, 1], ["b" * 2**19, 1], ["c", 1]]
    response = await client.post("/v1/chat/completions", json={**HI, "logit_bias": biases})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "logit_bias")
    assert error["message"] == "The texts in 'logit_bias' have 1,048,577 characters; 1,048,576 is the most"
    assert not engine.requests


async def test_choices_by_their_other_name(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    response = await client.post("/v1/chat/completions", json={**HI, "n_cmpl": 3})
    assert len(response.json()["choices"]) == 3


async def test_usage_as_openrouters_clients_ask(client: httpx.AsyncClient) -> None:
    body = {**HI, "stream": True, "usage": {"include": True}}
    chunks = lines(await client.post("/v1/chat/completions", json=body))
    assert chunks[-2]["usage"]["completion_tokens"] == len(PIECES)


async def test_a_template_variable_may_have_any_name(client: httpx.AsyncClient) -> None:
    await answered(client, stream=False, chat_template_kwargs={"self": 1, "source": 2})


async def test_a_function_call_with_a_name_that_is_not_a_string(client: httpx.AsyncClient) -> None:
    fields = {"functions": [{"name": "f"}], "function_call": {"name": ["f"]}}
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "function_call")
