"""`max_time` and --request-timeout over HTTP, before a fake engine."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.patience import soon
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from vram_llm.engine.request import EmbeddingRequest
from vram_llm.engine.wire import Embedded
from vram_llm.errors import RequestTimeout
from vram_llm.model.pooling import Pooling

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
ROUTES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/messages", {**CHAT, "max_tokens": 9}),
    ("/v1/responses", {"input": "hi"}),
)


@pytest.mark.parametrize(
    ("asked", "configured", "limit"), [(None, 0, None), (2.5, 0, 2.5), (None, 3, 3), (2.5, 3, 2.5), (4, 3, 3)]
)
@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_the_shorter_limit_holds(
    engine: FakeEngine,
    connect: Connect,
    path: str,
    body: dict[str, Any],
    asked: float | None,
    configured: float,
    limit: float | None,
) -> None:
    reply = await connect(request_timeout_s=configured).post(path, json={**body, "max_time": asked})
    assert reply.status_code == 200
    assert [request.max_time_s for request in engine.requests] == [limit]


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_too_late(engine: FakeEngine, connect: Connect, path: str, body: dict[str, Any]) -> None:
    engine.script = lambda request: [RequestTimeout("too late")]
    reply = await connect().post(path, json=body)
    assert (reply.status_code, reply.headers["x-should-retry"]) == (408, "false")
    error = reply.json()["error"]
    assert (error["type"], error["code"]) == ("timeout_error", "request_timeout")


@pytest.mark.parametrize("asked", [0, -1, "x"])
async def test_a_time_that_is_none(connect: Connect, asked: object) -> None:
    reply = await connect().post("/v1/chat/completions", json={**CHAT, "max_time": asked})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "max_time")


class _Slow(FakeEngine):
    async def embed(self, request: EmbeddingRequest) -> Embedded:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.append(request.id)
        raise AssertionError


async def test_embeddings(connect: Connect, engine: FakeEngine) -> None:
    slow = _Slow(info=replace(INFO, pooling=Pooling.MEAN, n_pooled=4))
    engine.embed = slow.embed  # type: ignore[method-assign]  # of this one engine
    engine.info = slow.info
    reply = await soon(connect(request_timeout_s=0.05).post("/v1/embeddings", json={"input": "a"}))
    assert (reply.status_code, len(slow.cancelled)) == (408, 1)
