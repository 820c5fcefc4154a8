"""POST, GET and DELETE /v1/responses, over the ASGI interface."""

import json
from typing import Any

import httpx
import pytest

from tests.server.fake_engine import FakeEngine, fails, says
from tests.server.tool_chat import ARGUMENTS, FUNCTION, PIECES
from vram_llm.engine.request import FinishReason
from vram_llm.server.responses import store

TOOL = {"type": "function", **FUNCTION}
USER = {"role": "user", "content": "hi"}


async def ask(client: httpx.AsyncClient, given: Any = "hi", **fields: Any) -> httpx.Response:
    return await client.post("/v1/responses", json={"model": "tiny", "input": given, **fields})


def events(response: httpx.Response) -> list[dict[str, Any]]:
    received = []
    for frame in response.text.split("\n\n")[:-1]:
        name, data = frame.split("\n")
        received.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {received[-1]['type']}"
    assert [event["sequence_number"] for event in received] == list(range(len(received)))
    return received


async def test_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = (await ask(client, instructions="Be kind.", max_output_tokens=7, temperature=0)).json()
    assert reply["id"].startswith("resp_")
    assert (reply["status"], reply["created_at"], reply["completed_at"]) == ("completed", 1234, 1234)
    (item,) = reply["output"]
    assert item.pop("id").startswith("msg_")
    assert item == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello world", "annotations": [], "logprobs": []}],
    }
    assert reply["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }
    assert (reply["instructions"], reply["temperature"], reply["max_output_tokens"]) == ("Be kind.", 0, 7)
    assert engine.requests[0].prompt == "[system]Be kind.[user]hi"
    assert engine.requests[0].max_tokens == 7


async def test_thinking_text_and_calls_are_items(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    output = (await ask(client, tools=[TOOL])).json()["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "function_call"]
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "I should look."}]
    assert output[1]["content"][0]["text"] == "One moment."
    assert (output[2]["name"], output[2]["arguments"]) == ("get_weather", ARGUMENTS)
    assert all(item["status"] == "completed" for item in output)


async def test_stream(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    received = events(await ask(client, tools=[TOOL], stream=True))
    kinds = [event["type"].removeprefix("response.") for event in received]
    assert kinds[:2] == ["created", "in_progress"]
    assert kinds[-1] == "completed"
    assert [k for k in kinds[2:-1] if not k.endswith("delta")] == [
        *("output_item.added", "content_part.added", "reasoning_text.done", "content_part.done"),
        "output_item.done",
        *("output_item.added", "content_part.added", "output_text.done", "content_part.done"),
        "output_item.done",
        *("output_item.added", "function_call_arguments.done", "output_item.done") * 2,
    ]
    for kind, text in (
        ("reasoning_text", "I should look."),
        ("output_text", "One moment."),
        ("function_call_arguments", ARGUMENTS + "{}"),
    ):
        deltas = [e["delta"] for e in received if e["type"] == f"response.{kind}.delta"]
        assert "".join(deltas) == text
    added = [e["item"] for e in received if e["type"] == "response.output_item.added"]
    assert all(item["status"] == "in_progress" for item in added)
    done = [e["item"] for e in received if e["type"] == "response.output_item.done"]
    assert done == received[-1]["response"]["output"]
    assert received[0]["response"]["output"] == []


async def test_cut_short(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says("Hel", ending=FinishReason.LENGTH)
    reply = (await ask(client)).json()
    assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert reply["output"][0]["status"] == "incomplete"
    assert events(await ask(client, stream=True))[-1]["type"] == "response.incomplete"


async def test_error_in_mid_stream(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = fails("Hel", error="the cache is full")
    received = events(await ask(client, stream=True))
    assert received[-1]["type"] == "response.failed"
    assert received[-1]["response"]["error"] == {"code": "server_error", "message": "the cache is full"}


async def test_a_response_continues_the_previous_one(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says(*PIECES)
    first = (await ask(client, instructions="Once.", tools=[TOOL])).json()
    call = first["output"][2]["call_id"]
    engine.script = says("Sunny.")
    answer = {"type": "function_call_output", "call_id": call, "output": "sun"}
    second = (await ask(client, [answer], previous_response_id=first["id"])).json()
    assert second["previous_response_id"] == first["id"]
    prompt = str(engine.requests[-1].prompt)
    assert prompt.startswith("[user]hi[assistant]I should look.One moment.")  # without its instructions
    assert prompt.endswith("[tool]sun")
    await ask(client, "and then?", previous_response_id=second["id"])
    assert str(engine.requests[-1].prompt).endswith("[tool]sun[assistant]Sunny.[user]and then?")


async def test_items_give_the_same_prompt_as_a_stored_response(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.script = says(*PIECES)
    first = (await ask(client)).json()
    await ask(client, "more", previous_response_id=first["id"])
    kept = engine.requests[-1].prompt
    await ask(
        client, [{"role": "user", "content": "hi"}, *first["output"], {"role": "user", "content": "more"}]
    )
    assert engine.requests[-1].prompt == kept


async def test_stored_responses_can_be_read_and_deleted(client: httpx.AsyncClient) -> None:
    first = (await ask(client)).json()
    path = f"/v1/responses/{first['id']}"
    assert (await client.get(path)).json() == first
    assert (await client.delete(path)).json() == {"id": first["id"], "object": "response", "deleted": True}
    for response in (await client.get(path), await client.delete(path)):
        assert response.status_code == 404
    response = await ask(client, previous_response_id=first["id"])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "previous_response_not_found"


async def test_not_stored(client: httpx.AsyncClient) -> None:
    reply = (await ask(client, store=False)).json()
    assert (await client.get(f"/v1/responses/{reply['id']}")).status_code == 404


@pytest.mark.parametrize(("bound", "most"), [("MAX_RESPONSES", 2), ("MAX_CHARS", 2400)])
async def test_the_least_recently_used_are_dropped(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(store, bound, most)
    ids = [(await ask(client)).json()["id"] for _ in range(2)]
    await client.get(f"/v1/responses/{ids[0]}")  # used again
    ids.append((await ask(client)).json()["id"])
    found = [(await client.get(f"/v1/responses/{i}")).status_code for i in ids]
    assert found == [200, 404, 200]


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ("hi", {"instructions": "x" * 5000}),
        ("hi", {"tools": [{**TOOL, "description": "x" * 5000}]}),
        ([{"type": "additional_tools", "tools": [{**TOOL, "description": "x" * 5000}]}, USER], {}),
        ([{"type": "additional_tools", "tools": [{"type": "shell", "description": "x" * 5000}]}, USER], {}),
    ],
)
async def test_everything_stored_counts(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, given: Any, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr(store, "MAX_CHARS", 5000)
    large = await ask(client, given, **fields)
    assert large.status_code == 200, large.text
    small = (await ask(client)).json()["id"]
    found = [(await client.get(f"/v1/responses/{each}")).status_code for each in (large.json()["id"], small)]
    assert found == [404, 200]


async def test_tools_declared_twice_in_a_chain_are_stored_once(client: httpx.AsyncClient) -> None:
    given = [{"type": "additional_tools", "tools": [TOOL]}, USER]
    first = (await ask(client, given)).json()
    second = (await ask(client, given, previous_response_id=first["id"])).json()
    assert len(second["tools"]) == len(first["tools"]) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"role": "pope", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input[0].content[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
        ),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].id"),
        ({"tools": [{"type": "crystal_ball"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"background": True}, "background"),
        ({"n": 2}, "n"),
        ({"include": ["everything"]}, "include"),
        ({"mood": "good"}, "mood"),
    ],
)
async def test_refused(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await client.post("/v1/responses", json={"model": "tiny", "input": "hi", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_there_is_no_compaction(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/responses/compact", json={})).status_code == 404


async def test_a_form_for_the_answer(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    reply = (await ask(client, text={"format": form})).json()
    assert reply["text"]["format"] == form
    grammar = engine.requests[0].grammar
    assert grammar is not None
    assert (json.loads(grammar.text), grammar.lenient) == ({"type": "object"}, False)
    bad = await ask(client, text={"format": {"type": "json_schema"}})
    assert bad.status_code == 400


async def test_a_forced_call(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = says('{"name": "get_weather", "arguments": {}}')
    (item,) = (await ask(client, tools=[TOOL], tool_choice="required")).json()["output"]
    assert (item["type"], item["name"]) == ("function_call", "get_weather")
