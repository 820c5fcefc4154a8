"""Streams of a fleet's models, over a fake fleet: while their model is loaded, and by native routes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.patience import soon, until
from tests.server.fleet.fake_fleet import FleetUnderTest
from tests.server.live import http_client, listening_app
from vram_llm.fleet.snapshots import ModelState

ID = {"conv_id": "conv::org/coder"}
BODY: dict[str, Any] = {"model": "coder", "prompt": "hi", "stream": True}
HEADERS = {"x-conversation-id": ID["conv_id"]}


@pytest.fixture
async def client(served: FleetUnderTest) -> AsyncIterator[httpx.AsyncClient]:
    async with listening_app(served.app) as url, http_client(url) as client:
        yield client


async def waiting(client: httpx.AsyncClient, served: FleetUnderTest) -> "asyncio.Future[httpx.Response]":
    """A request for a stream of a model that is not loaded."""
    served.fleet.change("coder", ModelState.UNLOADED)
    asking = asyncio.ensure_future(client.post("/completion", json=BODY, headers=HEADERS))
    await until(lambda: served.fleet.waiting == ["coder"], "a request that waits")
    return asking


async def test_native_routes_find_their_model(client: httpx.AsyncClient) -> None:
    reply = await client.post("/completion", json={"model": "coder", "prompt": "hi"})
    assert (reply.json()["content"], reply.json()["model"]) == ("I am coder", "coder")
    refused = await client.post("/infill", json={"model": "coder", "input_prefix": "", "input_suffix": ""})
    assert "'coder' cannot fill gaps" in refused.json()["error"]["message"]


async def test_a_stop_while_the_model_is_loaded(client: httpx.AsyncClient, served: FleetUnderTest) -> None:
    asking = await waiting(client, served)
    assert (await client.delete("/v1/stream", params=ID)).status_code == 204
    refused = await soon(asking)
    assert refused.status_code == 400
    assert "cancelled" in refused.json()["error"]["message"]
    assert served.fleet.waiting == []
    assert (await client.get("/v1/stream", params=ID)).status_code == 404


async def test_a_client_that_leaves_while_the_model_is_loaded(
    client: httpx.AsyncClient, served: FleetUnderTest
) -> None:
    asking = await waiting(client, served)
    asking.cancel()
    assert (await client.get("/v1/stream", params=ID)).status_code == 503
    assert served.fleet.waiting == ["coder"]
    served.fleet.change("coder", ModelState.RESIDENT)
    await until(lambda: served.fleet.leases == ["coder"] and not served.fleet.held, "the end of the stream")
    replay = await client.get("/v1/stream", params=ID)
    assert [text in replay.text for text in ("I am ", "coder", '"stop":true')] == [True] * 3
