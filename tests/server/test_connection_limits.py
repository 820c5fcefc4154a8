"""Heads, bodies and readers that are too large or too slow, and too many connections: real sockets."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.patience import soon, until
from tests.server.fake_engine import FakeEngine, says
from tests.server.live import listening
from tests.server.test_http_protocol import BODY, reply
from vram_llm.server.http_protocol import HttpProtocol

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def port(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    async with listening(engine) as url:
        monkeypatch.setattr(HttpProtocol, "limits", replace(HttpProtocol.limits, max_connections=3))
        yield int(url.rpartition(":")[2])


@pytest.fixture
async def hasty_port(port: int, monkeypatch: pytest.MonkeyPatch) -> int:
    limits = replace(HttpProtocol.limits, head_s=0.3, check_s=0.3, unread_s=0.3)
    monkeypatch.setattr(HttpProtocol, "limits", limits)
    return port


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health?" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 400_000,  # without an end
    ],
)
async def test_a_head_that_is_too_long(port: int, head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    status, body = await reply(reader)
    assert (status, body["error"]["code"]) == (431, "headers_too_large")
    assert "65,536 bytes" in body["error"]["message"]
    writer.close()


async def test_a_head_of_60_000_bytes_passes(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEALTH[:-2] + b"X: " + b"a" * 60_000 + b"\r\n\r\n" + HEALTH)
    assert [(await reply(reader))[0] for _ in range(2)] == [200, 200]
    writer.close()


@pytest.mark.parametrize(
    ("begun", "sentence"),
    [
        (b"GET /health HTTP/1.1\r\nHost: local", "The head of the request took more than 0 s"),
        (POST + b"Content-Length: 100\r\n\r\n{", "The body came with less than 512 bytes a second"),
    ],
)
async def test_requests_that_stop(hasty_port: int, begun: bytes, sentence: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty_port)
    writer.write(begun)
    status, body = await reply(reader)
    assert (status, body["error"]["code"]) == (408, "request_too_slow")
    assert sentence in body["error"]["message"]
    assert await soon(reader.read()) == b""
    writer.close()


async def test_a_slow_answer_is_no_slow_request(hasty_port: int, engine: FakeEngine) -> None:
    release = asyncio.Event()
    engine.script = lambda request: [release, *says("a")(request)]
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty_port)
    writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
    asyncio.get_running_loop().call_later(1.0, release.set)
    assert (await reply(reader))[0] == 200
    writer.close()


@pytest.mark.parametrize("more", [b"\r\n", HEALTH[:9]])
async def test_bytes_after_a_request_do_not_end_its_answer(
    hasty_port: int, engine: FakeEngine, more: bytes
) -> None:
    release = asyncio.Event()
    engine.script = lambda request: [release, *says("a")(request)]
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty_port)
    writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
    await until(lambda: engine.requests != [], "a request")
    writer.write(more)
    asyncio.get_running_loop().call_later(1.0, release.set)
    assert (await reply(reader))[0] == 200
    writer.write(HEALTH.removeprefix(more))
    assert (await reply(reader))[0] == 200
    writer.close()


async def test_an_answer_that_nobody_reads_ends(hasty_port: int, engine: FakeEngine) -> None:
    engine.script = lambda request: says(*["a" * 10_000] * 5000)(request)
    body = BODY[:-1] + b', "stream": true}'
    _, writer = await asyncio.open_connection("127.0.0.1", hasty_port, limit=1)
    writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await soon(engine.some_cancelled.wait())
    writer.transport.abort()


async def test_an_answer_before_its_body_leaves_the_connection_open(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")
    assert (await reply(reader))[0] == 404
    writer.write(b"a" * 10 + HEALTH)
    assert (await reply(reader))[0] == 200
    writer.close()


async def test_an_answered_request_whose_body_never_ends(hasty_port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hasty_port)
    writer.write(POST + b"Content-Length: 100000000\r\n\r\n{")
    status, body = await reply(reader)
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert await soon(reader.read()) == b""
    writer.close()


async def test_too_many_connections(port: int, engine: FakeEngine) -> None:
    """The one that was idle longest goes; without one, the new connection is refused."""
    release = asyncio.Event()
    engine.script = lambda request: [release, *says("a")(request)]
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
    busy = []
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        busy.append((reader, writer))
    assert await soon(idle_reader.read()) == b""
    await until(lambda: len(engine.requests) == 3, "three requests")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    status, body = await reply(reader)
    assert (status, body["error"]["message"][:23]) == (429, "3 connections are open,")
    release.set()
    assert [(await reply(reader))[0] for reader, _ in busy] == [200] * 3
    for each in (idle_writer, writer, *(writer for _, writer in busy)):
        each.close()
