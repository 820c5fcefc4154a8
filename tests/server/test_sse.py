"""The order of a stream's messages to its connection."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from tests.patience import soon
from vram_llm.errors import RequestError
from vram_llm.server.sse import COMMENT, EventStream


class Words:
    """Writes each word as it is."""

    def opening(self) -> bytes:
        return b"opening "

    def event(self, index: int, item: bytes, /) -> bytes:
        return item

    def closing(self) -> bytes:
        return b"closing"

    def failure(self, error: Exception) -> bytes:
        return str(error).encode()


class HeldConnection:
    """Takes the headers once `goes_on` is set. `held`: somebody waits for that."""

    def __init__(self) -> None:
        self.sent: list[bytes | int] = []  # status, pieces of the body
        self.held, self.goes_on = asyncio.Event(), asyncio.Event()

    async def receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.held.set()
            await self.goes_on.wait()
            self.sent.append(message["status"])
        else:
            self.sent.append(message["body"])


@pytest.mark.parametrize("error", [None, RequestError("broken")])
async def test_headers_that_a_comment_waits_for_are_sent_once(error: RequestError | None) -> None:
    has_news, connection = asyncio.Event(), HeldConnection()

    async def events() -> AsyncGenerator[tuple[int, bytes], None]:
        await has_news.wait()
        if error is not None:
            raise error
        yield 0, b""
        yield 0, b"word"

    stream = EventStream(Words(), events(), 0.01)
    answering = asyncio.create_task(stream({"type": "http"}, connection.receive, connection.send))
    await soon(connection.held.wait())
    has_news.set()
    for _ in range(20):
        await asyncio.sleep(0)  # the answer goes on as far as it can
    connection.goes_on.set()
    await soon(answering)

    sent = [piece for piece in connection.sent if piece != COMMENT]
    if error is None:
        assert sent == [200, b"opening word", b"closing"]
    else:  # nothing was sent: the error has its own status
        assert sent[0] == 400
        assert connection.sent.count(COMMENT) == 0
