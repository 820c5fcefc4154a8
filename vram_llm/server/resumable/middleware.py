"""Keeps the bytes of streams whose requests have the header X-Conversation-Id, also without a reader."""

import asyncio

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vram_llm.errors import RequestError
from vram_llm.server.api_keys import current_key
from vram_llm.server.direct_events import with_pieces
from vram_llm.server.errors import StreamStopped
from vram_llm.server.generation import cancel_and_wait
from vram_llm.server.normalize_request import receive_again
from vram_llm.server.read_body import LARGE_BYTES
from vram_llm.server.resumable.streams import ResumableStream, ResumableStreams
from vram_llm.server.worker_threads import BODIES, run_in

HEADER = "x-conversation-id"
MAX_ID_CHARS = 512
_BOM = b"\xef\xbb\xbf"


class ResumableMiddleware:
    """ASGI middleware. The request goes on when its client leaves, until it ends or the stream is stopped.

    Requests without the header or without `stream` are passed on as they are. Raises StreamStopped,
    RequestError.
    """

    def __init__(self, app: ASGIApp, streams: ResumableStreams) -> None:
        self._app = app
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        conversation_id = Headers(scope=scope).get(HEADER, "")
        if not conversation_id:
            await self._app(scope, receive, send)
            return
        if len(conversation_id) > MAX_ID_CHARS:
            raise RequestError(f"The header {HEADER} has more than {MAX_ID_CHARS} characters; shorten it")
        body = await _body(receive)
        if body is None:
            return
        given = receive_again({"type": "http.request", "body": body, "more_body": False}, receive)
        is_large = len(body) >= LARGE_BYTES
        if not (await run_in(BODIES, _is_stream, body) if is_large else _is_stream(body)):
            await self._app(scope, given, send)
            return
        del body
        owner = current_key.get().owner
        stream = self._streams.begin(owner, conversation_id)
        try:
            await self._run(stream, scope, given, send)
        finally:
            self._streams.end(owner, stream)

    async def _run(self, stream: ResumableStream, scope: Scope, given: Receive, send: Send) -> None:
        has_started = has_ended = False

        async def receive_until_stopped() -> Message:
            if not (message := await _next(given, stream)):
                return {"type": "http.disconnect"}
            return message

        async def keep(message: Message) -> None:
            nonlocal has_started, has_ended
            has_started = True
            has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                stream.has_begun = message["status"] == 200
            elif stream.has_begun:
                stream.buffer.append(message.get("body", b""))
            await send(message)

        try:
            await self._app(with_pieces(scope, None), receive_until_stopped, keep)
        except ClientDisconnect:  # the request waited for its model when the stream was stopped
            if not stream.stopped.is_set():
                raise
        if stream.stopped.is_set() and not has_ended:
            if not has_started:
                raise StreamStopped("This request was cancelled: its stream was stopped")
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _next(given: Receive, stream: ResumableStream) -> Message | None:
    """The next message of the body; None once the stream is stopped. The end of the client is no message."""
    stopping = asyncio.ensure_future(stream.stopped.wait())
    reading = asyncio.ensure_future(given())
    try:
        await asyncio.wait({stopping, reading}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done() and reading.result()["type"] == "http.disconnect":
            await stopping
        return None if stopping.done() else reading.result()
    finally:
        await cancel_and_wait(stopping, reading)


class _Stream(msgspec.Struct):
    stream: bool | None = None


def _is_stream(body: bytes) -> bool:
    """Whether a request asks for a stream; False for a body that its route refuses."""
    try:
        return msgspec.json.decode(body.removeprefix(_BOM), type=_Stream).stream is True
    except (msgspec.DecodeError, RecursionError):
        return False


async def _body(receive: Receive) -> bytes | None:
    """A request's body; None if the client leaves before its end. Raises BodyTooLarge, Overloaded."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
    return None
