"""Clients over plain sockets: streams, requests that wait, and one that asks for /health all the time."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"
_POLL_S = 0.01
_ERROR = b'"error":'


@dataclass
class Answer:
    """What has come back so far. `tokens` counts the chunks of a stream that have text."""

    is_stream: bool
    tokens: int = 0
    received: bytes = b""
    is_closed: bool = False

    @property
    def outcome(self) -> str:
        """ "answered", the code of its error, or "broken off"."""
        head, _, body = self.received.partition(b"\r\n\r\n")
        if _ERROR in body:
            error = json.loads(body[body.rindex(b'{"error":') :].split(b"\n")[0].rstrip(b"\r"))
            return str(error["error"]["code"])
        is_whole = b"[DONE]" in body if self.is_stream else b'"finish_reason"' in body
        return "answered" if b" 200 " in head[:20] and is_whole else "broken off"


class Client:
    """One connection, which is open before its request is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.answer = Answer(is_stream=False)
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, port: int) -> "Client":
        """A client that has asked for nothing yet."""
        return cls(*await asyncio.open_connection(HOST, port, limit=1 << 22))

    def ask(self, n_tokens: int, *, stream: bool, **fields: Any) -> None:
        """Send a request for a completion of `n_tokens`."""
        wish = {
            "prompt": "What is a tensor split?", "max_tokens": n_tokens, "ignore_eos": True, "stream": stream,
            **fields,
        }  # fmt: skip
        body = json.dumps(wish).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.answer = Answer(is_stream=stream)
        self._writer.write(head.encode() + body)
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(1 << 16):
                self.answer.received += data
                self.answer.tokens += data.count(b'"text":')
        except ConnectionError:
            pass
        self.answer.is_closed = True

    async def begun(self, n_tokens: int = 4) -> None:
        """Wait for the first tokens of a stream."""
        while self.answer.tokens < n_tokens and not self.answer.is_closed:
            await asyncio.sleep(_POLL_S)  # between two looks

    async def end(self, limit_s: float) -> str:
        """The outcome; "nothing" if none comes within `limit_s`."""
        assert self._reading is not None
        done, _ = await asyncio.wait({self._reading}, timeout=limit_s)
        outcome = self.answer.outcome if done else "nothing"
        self._reading.cancel()
        self._writer.close()
        return outcome


@dataclass
class HealthWatch:
    """Asks for /health on one connection, every ten milliseconds. `seen`: changes, by time.monotonic()."""

    port: int
    seen: list[tuple[float, int, str]] = field(default_factory=list)

    async def run(self) -> None:
        """Ask until cancelled."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        while True:
            writer.write(f"GET /health HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            status = int(head.split()[1])
            message = "" if status == 200 else body["error"]["message"]
            if not self.seen or self.seen[-1][1:] != (status, message):
                self.seen.append((time.monotonic(), status, message))
            await asyncio.sleep(_POLL_S)  # between two looks

    def first(self, status: int, after_s: float) -> tuple[float, str] | None:
        """When it first had `status` at or after a time, and its message; None: not yet."""
        held = [s for s in self.seen if s[0] <= after_s][-1:]
        if held and held[0][1] == status:
            return after_s, held[0][2]
        return next(((at, text) for at, code, text in self.seen if at > after_s and code == status), None)
