"""`truncate` over the fake engine, whose tokens are bytes, in a context of 512."""

import base64
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.pictures import png
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from vram_llm.errors import ContextExceeded
from vram_llm.server.truncation import AnswerRoom, answer_room

SYSTEM = {"role": "system", "content": "Be brief."}


def turns(n: int, n_chars: int = 20) -> list[dict[str, Any]]:
    """Questions and answers, then the last question."""
    said = [
        {"role": role, "content": f"{role[0]}{i} ".ljust(n_chars, ".")}
        for i in range(n)
        for role in ("user", "assistant")
    ]
    return [*said, {"role": "user", "content": "last question"}]


async def ask(client: httpx.AsyncClient, messages: list[Any], **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={"messages": messages, **fields})


@pytest.mark.parametrize(
    ("asked", "limit", "allowed", "room"),
    [
        (None, 100, False, None),
        (False, 100, True, None),
        (True, 100, False, AnswerRoom(100, 100)),
        (True, None, False, AnswerRoom(128, 1)),
        (None, None, True, AnswerRoom(128, 1)),
        (None, 100, True, AnswerRoom(100, 1)),
        (None, 10_000, True, AnswerRoom(128, 1)),
        (True, 10_000, True, AnswerRoom(10_000, 10_000)),
    ],
)
def test_room_for_the_answer(
    asked: bool | None, limit: int | None, allowed: bool, room: AnswerRoom | None
) -> None:
    assert answer_room(asked, limit, 512, allowed=allowed) == room


async def test_the_oldest_turns_are_dropped(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = await ask(client, [SYSTEM, *turns(9)], truncate=True, max_tokens=100)
    (request,) = engine.requests
    assert isinstance(request.prompt, str)
    assert len(request.prompt) + 1 + 100 <= INFO.n_ctx
    assert "Be brief." in request.prompt
    assert "last question" in request.prompt
    assert "u0" not in request.prompt
    assert "a8" in request.prompt
    n_dropped = 20 - request.prompt.count("<|im_start|>") + 1  # the last one opens the answer
    assert n_dropped > 0
    assert reply.headers["x-dropped-messages"] == str(n_dropped)
    assert reply.json()["usage"]["prompt_tokens_details"]["dropped_messages"] == n_dropped


async def test_a_chat_that_fits_is_whole(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = await ask(client, turns(1), truncate=True, max_tokens=100)
    assert "u0" in str(engine.requests[0].prompt)
    assert reply.headers["x-dropped-messages"] == "0"
    assert reply.json()["usage"]["prompt_tokens_details"]["dropped_messages"] == 0
    other = await ask(client, turns(1))
    assert "x-dropped-messages" not in other.headers
    assert "dropped_messages" not in other.json()["usage"]["prompt_tokens_details"]


async def test_later_requests_of_a_chat_are_cut_at_the_same_place(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    """So that the prefix cache has most of their prompts."""
    engine.info = replace(INFO, n_ctx=4096)
    for n in range(90, 100):
        await ask(client, [SYSTEM, *turns(n)], truncate=True, max_tokens=100)
    prompts = [str(request.prompt).rpartition("<|im_start|>user")[0] for request in engine.requests]
    n_alike = sum(later.startswith(earlier) for earlier, later in pairwise(prompts))
    assert n_alike >= 8


async def test_a_chat_of_more_text_than_any_context_holds(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.info = replace(INFO, max_prompt_bytes=4000)
    refused = await ask(client, turns(9, 1000))
    assert "'truncate': true" in refused.json()["error"]["message"]
    reply = await ask(client, turns(9, 1000), truncate=True, max_tokens=100)
    assert reply.headers["x-dropped-messages"] == "18"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_that_does_not_fit_without_them(
    client: httpx.AsyncClient, engine: FakeEngine, stream: bool
) -> None:
    messages = [*turns(3), {"role": "assistant", "content": "ok"}, {"role": "user", "content": "x" * 500}]
    reply = await ask(client, messages, truncate=True, max_tokens=100, stream=stream)
    assert (reply.status_code, engine.requests) == (400, [])
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "truncate")
    over = error["n_prompt_tokens"] + 100 - 512
    assert f"that is {over:,} more than the context's 512" in error["message"]


async def test_an_answer_longer_than_the_context(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    reply = await ask(client, turns(1), truncate=True, max_tokens=1000)
    assert (reply.status_code, engine.requests) == (400, [])


async def test_calls_are_dropped_with_their_results(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    first = [
        {"role": "user", "content": "u0"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "r" * 300},
        {"role": "assistant", "content": "a0"},
    ]
    reply = await ask(client, [*first, *turns(0)], truncate=True, max_tokens=200)
    assert reply.headers["x-dropped-messages"] == "4"
    assert "look" not in str(engine.requests[0].prompt)


async def test_images_of_dropped_messages_are_dropped(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(INFO, takes_images=True)

    def seen(number: int, text: str) -> dict[str, Any]:
        url = f"data:image/png;base64,{base64.b64encode(png(number)).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        return {"role": "user", "content": parts}

    messages = [seen(1, "u" * 400), {"role": "assistant", "content": "ok"}, seen(2, "last")]
    await ask(client, messages, truncate=True, max_tokens=100)
    assert [image.data for image in engine.requests[0].images] == [png(2)]


async def test_the_server_may_drop_by_default(connect: Connect, engine: FakeEngine) -> None:
    client = connect(truncate=True)
    assert (await ask(client, turns(9))).headers["x-dropped-messages"] != "0"
    assert (await ask(client, turns(1), max_tokens=100_000)).headers["x-dropped-messages"] == "0"
    assert "x-dropped-messages" not in (await ask(client, turns(9), truncate=False)).headers


async def test_streams(client: httpx.AsyncClient) -> None:
    body = {"truncate": True, "max_tokens": 100, "stream": True, "stream_options": {"include_usage": True}}
    reply = await ask(client, turns(9), **body)
    *_, usage, _, _ = reply.text.split("\n\n")
    details = json.loads(usage.removeprefix("data: "))["usage"]["prompt_tokens_details"]
    assert str(details["dropped_messages"]) == reply.headers["x-dropped-messages"] != "0"


@pytest.mark.parametrize("fields", [{"truncate": True}, {"truncation": "auto"}])
async def test_responses(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    body = {"input": turns(9), "max_output_tokens": 100, **fields}
    reply = await client.post("/v1/responses", json=body)
    response = reply.json()
    assert response["truncation"] == "auto"
    n_dropped = response["usage"]["input_tokens_details"]["dropped_messages"]
    assert n_dropped > 0
    assert reply.headers["x-dropped-messages"] == str(n_dropped)
    body = {"input": "and now?", "previous_response_id": response["id"], "max_output_tokens": 100, **fields}
    again = await client.post("/v1/responses", json=body)  # the stored chat is whole
    assert int(again.headers["x-dropped-messages"]) >= n_dropped
    plain = (await client.post("/v1/responses", json={"input": "hi"})).json()
    assert plain["truncation"] == "disabled"


async def test_responses_may_forbid_what_the_server_does(connect: Connect) -> None:
    client = connect(truncate=True)
    reply = await client.post("/v1/responses", json={"input": turns(9), "truncation": "disabled"})
    assert "x-dropped-messages" not in reply.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_messages(client: httpx.AsyncClient, stream: bool) -> None:
    body = {"messages": turns(9), "system": "Be brief.", "max_tokens": 100, "truncate": True}
    reply = await client.post("/v1/messages", json={**body, "stream": stream})
    n_dropped = int(reply.headers["x-dropped-messages"])
    assert n_dropped > 0
    assert f'"dropped_messages":{n_dropped}' in reply.text
    counted = (await client.post("/v1/messages/count_tokens", json=body)).json()["input_tokens"]
    assert counted + 100 <= INFO.n_ctx


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", {"messages": turns(0)}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": turns(0), "max_tokens": 5}),
    ],
)
async def test_refusals_name_it(
    client: httpx.AsyncClient, engine: FakeEngine, route: str, body: dict[str, Any]
) -> None:
    engine.script = lambda _: [ContextExceeded("600 tokens, 512 fit", n_prompt_tokens=600, n_ctx=512)]
    assert "'truncate': true" in (await client.post(route, json=body)).json()["error"]["message"]
