"""Equivalent forms of a request: HEAD, a trailing slash, a compressed body."""

import zlib

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vram_llm.errors import RequestError
from vram_llm.server.errors import BodyTooLarge, UnknownEncoding
from vram_llm.server.read_body import count_bytes
from vram_llm.server.worker_threads import BODIES, run_in
from vram_llm.units import format_bytes

_MAX_MEMBERS = 4096  # of a gzip file; most have one
_CHUNK_BYTES = 1 << 16
_WINDOWS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}  # zlib's wbits; some send raw deflate


class NormalizeRequestMiddleware:
    """ASGI middleware. HEAD gets GET's answer without the body. A trailing slash is removed.

    A gzip or deflate body is decompressed, up to `max_body_bytes`. Raises UnknownEncoding, BodyTooLarge,
    Overloaded.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = dict(scope)
        if len(scope["path"]) > 1:
            scope["path"] = scope["path"].rstrip("/") or "/"
        if scope["method"] == "HEAD":
            scope["method"], send = "GET", _without_body(send)
        encoding = Headers(scope=scope).get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            receive = await self._decoded(encoding, receive)
        await self._app(scope, receive, send)

    async def _decoded(self, encoding: str, receive: Receive) -> Receive:
        """`receive` with the decoded body in one message. Reads the whole body."""
        if encoding not in _WINDOWS:
            raise UnknownEncoding(
                f"The body's encoding '{encoding}' is not supported; send it as gzip, or uncompressed"
            )
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        else:
            return receive_again(message, receive)  # the client is gone
        decoded = await run_in(BODIES, _decompressed, bytes(body), encoding, self._max_body_bytes)
        count_bytes(len(decoded))
        return receive_again({"type": "http.request", "body": decoded, "more_body": False}, receive)


def _decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    for window in _WINDOWS[encoding]:
        text = _members(body, window, max_bytes)
        if text is not None and len(text) > max_bytes:
            raise BodyTooLarge(
                f"The body is larger than {format_bytes(max_bytes)} once decompressed, the most taken here"
            )
        if text is not None:
            return text
    raise RequestError(f"The body is not valid {encoding}, contrary to its Content-Encoding")


def _members(body: bytes, window: int, max_bytes: int) -> bytes | None:
    """The text of a body's members (RFC 1952), cut after `max_bytes`; None if a member is broken.

    In chunks, since zlib copies all that follows a member.
    """
    text, done = bytearray(), 0
    if not body:
        return b""
    for _ in range(_MAX_MEMBERS):
        reader = zlib.decompressobj(window)
        while not reader.eof:
            chunk = body[done : done + _CHUNK_BYTES]
            if not chunk:
                return None
            try:
                text += reader.decompress(chunk, max_bytes + 1 - len(text))
            except zlib.error:
                return None
            if len(text) > max_bytes:
                return bytes(text)
            done += len(chunk) - len(reader.unused_data) - len(reader.unconsumed_tail)
        if done == len(body):
            return bytes(text)
    return None


def receive_again(first: Message, receive: Receive) -> Receive:
    """A `receive` that gives the message `first`, then those of `receive`. It keeps `first` until then."""
    waiting = [first]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _without_body(send: Send) -> Send:
    async def head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return head
