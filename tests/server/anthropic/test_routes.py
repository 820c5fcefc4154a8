"""POST /v1/messages and /v1/messages/count_tokens, over the ASGI interface."""

import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import Connect
from tests.server.fake_engine import FakeEngine, fails, says
from tests.server.tool_chat import FUNCTION, PARAMETERS, PIECES
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import FinishReason, TokenEvent
from vram_llm.errors import Overloaded

HI = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"name": FUNCTION["name"], "description": "Weather", "input_schema": PARAMETERS}


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/messages", json={**HI, **fields})


def events(response: httpx.Response) -> list[dict[str, Any]]:
    received = []
    for frame in response.text.split("\n\n")[:-1]:
        name, data = frame.split("\n")
        received.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {received[-1]['type']}"
    return received


async def test_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = (
        await ask(client, system=[{"type": "text", "text": "Be kind."}], stop_sequences=["x"], top_k=3)
    ).json()
    assert reply["id"].startswith("msg_")
    assert (reply["type"], reply["role"], reply["stop_reason"]) == ("message", "assistant", "end_turn")
    assert reply["content"] == [{"type": "text", "text": "Hello world", "citations": []}]
    assert (reply["usage"]["input_tokens"], reply["usage"]["output_tokens"]) == (5, 2)
    request = engine.requests[0]
    assert request.prompt == "[system]Be kind.[user]hi"
    assert (request.max_tokens, request.stop, request.sampling.top_k) == (9, ("x",), 3)


async def test_thinking_text_and_calls_are_blocks(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    reply = (await ask(client, tools=[TOOL], thinking={"type": "enabled", "budget_tokens": 1024})).json()
    assert reply["stop_reason"] == "tool_use"
    thinking, text, first, second = reply["content"]
    assert (thinking["thinking"], bool(thinking["signature"])) == ("I should look.", True)
    assert text["text"] == "One moment."
    assert (first["type"], first["name"], first["input"]) == ("tool_use", "get_weather", {"city": "Paris"})
    assert second["input"] == {}
    assert str(engine.requests[0].prompt).endswith("hi")


async def test_stream(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    received = events(await ask(client, tools=[TOOL], stream=True))
    start, ping, *blocks, delta, stop = received
    assert ping == {"type": "ping"}
    assert start["message"]["usage"]["input_tokens"] == 5
    assert start["message"]["content"] == []
    assert stop == {"type": "message_stop"}
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] == len(PIECES)
    opened = [b["content_block"]["type"] for b in blocks if b["type"] == "content_block_start"]
    assert opened == ["thinking", "text", "tool_use", "tool_use"]
    texts = ["", "", "", ""]
    for block in blocks:
        if block["type"] == "content_block_delta" and block["delta"]["type"] != "signature_delta":
            texts[block["index"]] += next(v for k, v in block["delta"].items() if k != "type")
    assert texts == ["I should look.", "One moment.", '{"city": "Paris"}', "{}"]
    assert [b["index"] for b in blocks if b["type"] == "content_block_stop"] == [0, 1, 2, 3]


async def test_a_call_cut_short(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES[:9], ending=FinishReason.LENGTH)
    reply = (await ask(client, tools=[TOOL])).json()
    assert reply["stop_reason"] == "max_tokens"
    assert reply["content"][-1]["input"] == {"INVALID_JSON": '{"city": "Par'}


async def test_arguments_with_half_of_a_surrogate_pair(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES[:8], r': "\ud800"}', "}\n</tool_call>")
    reply = (await ask(client, tools=[TOOL])).json()
    assert reply["content"][-1]["input"] == {"INVALID_JSON": r'{"city": "\ud800"}'}


async def test_calls_can_be_sent_back(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    content = (await ask(client, tools=[TOOL])).json()["content"]
    calls = [block["id"] for block in content if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call, "content": "sun"} for call in calls]
    messages = [
        *HI["messages"],  # type: ignore[misc]  # a list
        {"role": "assistant", "content": content},
        {"role": "user", "content": [*results, {"type": "text", "text": "so?"}]},
    ]
    assert (await ask(client, messages=messages)).status_code == 200
    assert engine.requests[-1].prompt == (
        "[user]hi[assistant]I should look.One moment."
        f'{calls[0]} {{"city": "Paris"}}{calls[1]} {{}}[tool]sun[tool]sun[user]so?'
    )


async def test_at_most_one_call(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    content = (await ask(client, tools=[TOOL], tool_choice=choice)).json()["content"]
    assert [block["type"] for block in content] == ["thinking", "text", "tool_use"]


async def test_no_messages_are_no_error(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    """As in llama-server: the prompt is what the template makes of the system text alone."""
    assert (await ask(client, messages=[], system="Be kind.")).status_code == 200
    assert "Be kind." in str(engine.requests[0].prompt)


async def test_count_tokens(client: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "messages": HI["messages"], "tools": [TOOL]}
    reply = await client.post("/v1/messages/count_tokens", json=body)
    assert reply.json() == {"input_tokens": len("<s>get_weather [user]hi") - 2}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "often"}}, "thinking.type"),
        ({"mood": "good"}, "mood"),
    ],
)
async def test_refused(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await ask(client, **fields)
    assert response.status_code == 400
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["error"]["param"] == param


async def test_a_thread_is_refused_so_that_the_sdk_goes_on_without_one(client: httpx.AsyncClient) -> None:
    response = await ask(client, thread={"type": "create"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "thread"
    assert error["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_in_anthropics_form(connect: Connect, engine: FakeEngine, stream: bool) -> None:
    client = connect(strict_model=True)
    engine.script = lambda request: [Overloaded("The queue is full", 3.0)]
    response = await ask(client, stream=stream)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json()["error"]["type"] == "rate_limit_error"
    unknown = await ask(client, model="claude", stream=stream)
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")
    engine.state = EngineState.STOPPING
    stopping = await ask(client, stream=stream)
    assert (stopping.status_code, stopping.json()["error"]["type"]) == (503, "overloaded_error")


async def test_error_in_mid_stream(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = fails("Hel", error="the cache is full")
    received = events(await ask(client, stream=True))
    assert received[-1]["type"] == "error"
    assert received[-1]["error"]["message"] == "the cache is full"


async def test_the_key_as_its_clients_send_it(connect: Connect) -> None:
    client = connect(api_keys=("right",))
    for key, status in (("right", 200), ("wrong", 401)):
        response = await client.post("/v1/messages", json=HI, headers={"x-api-key": key})
        assert response.status_code == status
    assert response.json()["error"]["type"] == "authentication_error"


async def test_a_forced_call(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says('{"name": "get_weather", "arguments": {"city": "Rome"}}')
    choice = {"type": "tool", "name": "get_weather"}
    reply = (await ask(client, tools=[TOOL], tool_choice=choice)).json()
    assert [(block["name"], block["input"]) for block in reply["content"]] == [
        ("get_weather", {"city": "Rome"})
    ]
    assert engine.requests[0].grammar is not None


async def test_the_stop_sequence_is_reported(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = lambda request: [
        TokenEvent(id=request.id, text="One", finish_reason=FinishReason.STOP, stop="two")
    ]
    reply = (await ask(client, stop_sequences=["two"])).json()
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", "two")
