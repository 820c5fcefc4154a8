"""Bytes that clients send over a socket and that are not plain HTTP/1.1, and writes of answers."""

import asyncio
import json
from asyncio.selector_events import _SelectorSocketTransport  # type: ignore[attr-defined] # not in typeshed
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.patience import soon
from tests.server.fake_engine import FakeEngine
from tests.server.live import listening

BODY = json.dumps({"model": "", "messages": [{"role": "user", "content": "hi"}]}).encode()
OFFER = (  # as java.net.http.HttpClient sends it
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
)
WHOLE = OFFER + BODY


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with listening(FakeEngine()) as url:
        yield int(url.rpartition(":")[2])


async def reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    """The status and the JSON body of the next answer."""
    head = await soon(reader.readuntil(b"\r\n\r\n"))
    lines = head.decode().lower().split("\r\n")
    length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length"))
    return int(lines[0].split()[1]), json.loads(await soon(reader.readexactly(length)))


@pytest.mark.parametrize("cut", [1, 40, len(OFFER) - 2, len(OFFER), len(OFFER) + 3, len(WHOLE)])
async def test_an_offer_of_http_2_is_passed_over(port: int, cut: int) -> None:
    """For every cut by the network, twice on one connection, and then a request without an offer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(WHOLE[:cut])
        await writer.drain()
        await asyncio.sleep(0.01)  # so that the server reads the parts one by one
        writer.write(WHOLE[cut:])
        status, body = await reply(reader)
        assert (status, body["choices"][0]["message"]["content"]) == (200, "Hello world")
    writer.write(
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    assert await reply(reader) == (200, {"status": "ok"})
    writer.close()


async def test_the_head_is_written_with_the_first_event(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = _SelectorSocketTransport.write

    def noted(transport: asyncio.WriteTransport, data: bytes) -> None:
        written.append(bytes(data))
        write(transport, data)

    monkeypatch.setattr(_SelectorSocketTransport, "write", noted)
    async with httpx.AsyncClient() as client:
        wish = json.loads(BODY) | {"stream": True}
        answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=wish)
    assert answer.text.endswith("data: [DONE]\n\n")
    (head,) = [data for data in written if data.startswith(b"HTTP/1.1 200")]
    assert b"data: {" in head


async def test_a_head_without_a_body_is_written(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await soon(reader.readuntil(b"\r\n\r\n"))
    assert head.startswith(b"HTTP/1.1 ")
    writer.close()


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",  # how TLS begins
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nno header\r\n\r\n",
    ],
)
async def test_bytes_that_are_not_http_1_are_refused_in_a_sentence(port: int, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    status, body = await reply(reader)
    assert status == 400
    assert body["error"]["message"] == (
        "This is not an HTTP/1.1 request: use http:// (not https://) and HTTP/1.1, for example "
        f"http://127.0.0.1:{port}/v1/models"
    )
    assert await soon(reader.read()) == b""  # closed
    writer.close()
