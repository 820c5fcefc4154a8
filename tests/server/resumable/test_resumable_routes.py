"""Streams that outlive their client, over a fake engine behind real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.patience import soon, until
from tests.server.conftest import Connect
from tests.server.fake_engine import FakeEngine, Step, fails, says
from tests.server.live import http_client
from vram_llm.engine.request import Request
from vram_llm.server.resumable.middleware import HEADER

ID = "conv-1::org/model:Q8_0"
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/completion": {"prompt": "hi"},
    "/v1/completions": {"prompt": "hi"},
}


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(url) as client:
        yield client


def held(gate: asyncio.Event) -> Any:
    """Says two words, and waits for `gate` between them."""

    def script(request: Request) -> list[Step]:
        first, *others = says("Hello", " world")(request)
        return [first, gate, *others]

    return script


@asynccontextmanager
async def asked(
    client: httpx.AsyncClient, path: str = "/completion", conversation: str = ID, **fields: Any
) -> AsyncIterator[httpx.Response]:
    body = {**PATHS[path], "stream": True, **fields}
    async with client.stream("POST", path, json=body, headers={HEADER: conversation}) as response:
        yield response


def text_of(body: str) -> str:
    lines = [line[6:] for line in body.split("\n\n") if line.startswith("data: {")]
    return "".join(json.loads(line).get("content", "") for line in lines)


@pytest.mark.parametrize("path", list(PATHS))
async def test_a_stream_is_replayed(client: httpx.AsyncClient, path: str) -> None:
    async with asked(client, path) as response:
        whole = await response.aread()
    for prefix in ("", "/v1"):
        again = await client.get(f"{prefix}/stream", params={"conv_id": ID, "from": 0})
        assert again.headers["content-type"].startswith("text/event-stream")
        assert again.content == whole
    assert (await client.get("/v1/stream", params={"conv_id": ID, "from": 7})).content == whole[7:]
    assert (await client.get("/v1/stream", params={"conv_id": ID, "from": 10**6})).content == b""


async def test_it_goes_on_without_its_client(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    engine.script = held(gate)
    async with asked(client) as response:
        first = await anext(response.aiter_bytes())
    assert b"Hello" in first
    reading = asyncio.ensure_future(client.get("/v1/stream", params={"conv_id": ID}))
    (facts,) = (await client.post("/v1/streams/lookup", json={"conversation_ids": ["conv-1", "x"]})).json()
    assert (facts["conversation_id"], facts["is_done"], facts["completed_at"]) == (ID, False, 0)
    gate.set()
    replayed = (await soon(reading)).text
    assert text_of(replayed) == "Hello world"
    assert engine.cancelled == []
    (facts,) = (await client.post("/v1/streams/lookup", json={"conversation_ids": [ID]})).json()
    assert (facts["is_done"], facts["total_bytes"]) == (True, len(replayed.encode()))


async def test_without_the_header_it_ends_with_its_client(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.script = held(asyncio.Event())
    async with client.stream("POST", "/completion", json={"prompt": "a", "stream": True}) as response:
        await anext(response.aiter_bytes())
    await soon(engine.some_cancelled.wait())


async def test_a_whole_reply_ends_with_its_client(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = held(asyncio.Event())
    asking = asyncio.ensure_future(client.post("/completion", json={"prompt": "a"}, headers={HEADER: ID}))
    await until(lambda: bool(engine.requests), "a request")
    asking.cancel()
    await soon(engine.some_cancelled.wait())


async def test_stop(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = held(asyncio.Event())
    async with asked(client) as response:
        parts = response.aiter_bytes()
        await anext(parts)
        assert (await client.delete("/v1/stream", params={"conv_id": ID})).status_code == 204
        assert [part async for part in parts] == []  # its client sees an end
    await soon(engine.some_cancelled.wait())
    assert (await client.get("/v1/stream", params={"conv_id": ID})).status_code == 404
    assert (await client.delete("/v1/stream", params={"conv_id": ID})).status_code == 204


async def test_stop_before_the_first_byte(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = lambda _: [asyncio.Event()]
    body = {"prompt": "a", "stream": True}
    asking = asyncio.ensure_future(client.post("/completion", json=body, headers={HEADER: ID}))
    await until(lambda: bool(engine.requests), "a request")
    assert (await client.get("/v1/stream", params={"conv_id": ID})).status_code == 503
    await client.delete("/v1/stream", params={"conv_id": ID})
    response = await soon(asking)
    assert response.status_code == 400
    assert "cancelled" in response.json()["error"]["message"]
    await soon(engine.some_cancelled.wait())


async def test_the_next_stream_of_a_conversation_stops_the_last_one(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.script = held(asyncio.Event())
    async with asked(client) as response:
        await anext(response.aiter_bytes())
    engine.script = says("Other")
    async with asked(client) as response:
        assert text_of((await response.aread()).decode()) == "Other"
    await soon(engine.some_cancelled.wait())
    assert text_of((await client.get("/v1/stream", params={"conv_id": ID})).text) == "Other"


async def test_a_refused_request_leaves_nothing(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    async with asked(client, n_predict="x") as response:
        assert response.status_code == 400
    engine.script = fails(error="no")
    async with asked(client) as response:
        assert response.status_code == 500
    assert (await client.get("/v1/stream", params={"conv_id": ID})).status_code == 404
    found = await client.post("/v1/streams/lookup", json={"conversation_ids": [ID]})
    assert found.json() == []


async def test_keys_do_not_see_each_others_streams(connect: Connect) -> None:
    client = connect(api_keys=("one", "two"))
    one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    body = {"prompt": "a", "stream": True}
    await client.post("/completion", json=body, headers={HEADER: ID, **one})
    statuses = [
        (await client.get("/v1/stream", params={"conv_id": ID}, headers=key)).status_code
        for key in (one, two)
    ]
    assert statuses == [200, 404]
    assert (await client.get("/v1/stream", params={"conv_id": ID})).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("GET", "/v1/stream", {}),
        ("DELETE", "/v1/stream", {}),
        ("POST", "/v1/streams/lookup", {"json": {}}),
        ("POST", "/v1/streams/lookup", {"json": {"conversation_ids": "a"}}),
        ("POST", "/completion", {"json": {"prompt": "a", "stream": True}, "headers": {HEADER: "x" * 513}}),
    ],
)
async def test_refused(connect: Connect, method: str, path: str, options: dict[str, Any]) -> None:
    assert (await connect().request(method, path, **options)).status_code == 400


@pytest.mark.parametrize("offset", ["-1", "x", "1" * 19])
async def test_offsets_refused(client: httpx.AsyncClient, offset: str) -> None:
    async with asked(client) as response:
        await response.aread()
    refused = await client.get("/v1/stream", params={"conv_id": ID, "from": offset})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "from")
