"""GET and DELETE /v1/stream, POST /v1/streams/lookup: a client comes back to its streams."""

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, RootModel
from starlette.types import Receive, Scope, Send

from vram_llm.errors import RequestError
from vram_llm.server.api_keys import current_key
from vram_llm.server.errors import MissingField, NoSuchStream, NotReady
from vram_llm.server.generation import while_connected
from vram_llm.server.known_fields import Fields
from vram_llm.server.openapi import body_route, refusals
from vram_llm.server.read_body import read_fields
from vram_llm.server.resumable.buffer import OffsetLost, StreamBuffer
from vram_llm.server.resumable.streams import ResumableStreams
from vram_llm.server.sse import HEADERS, send_body

MAX_IDS = 1024
_MOST_DIGITS = 18


class LookupFields(Fields):
    """POST /v1/streams/lookup. An id stands for the conversation with any model, too: "ID::MODEL"."""

    conversation_ids: Annotated[list[str], Field(max_length=MAX_IDS)]


class StreamFacts(BaseModel):
    """A stream that may be read. Times are Unix seconds; `completed_at` 0: it goes on."""

    conversation_id: str
    is_done: bool
    total_bytes: int
    started_at: int
    completed_at: int


class StreamsFound(RootModel[list[StreamFacts]]):
    """The reply to POST /v1/streams/lookup."""


class Replay(Response):
    """Sends the bytes of a stream from an offset on, and those that come."""

    def __init__(self, buffer: StreamBuffer, offset: int) -> None:
        self.background = None
        self._buffer = buffer
        self._offset = offset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS[:]})
        await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        offset = self._offset
        try:
            while data := await self._buffer.read(offset):
                offset += len(data)
                await send_body(send, data)
        except OffsetLost:  # the reader is slower than the stream; it may begin again where it likes
            pass
        await send_body(send, b"", more=False)


def resumable_router(streams: ResumableStreams) -> APIRouter:
    """llama-server's routes for streams of requests with the header X-Conversation-Id."""
    router = APIRouter(tags=["streams"])

    @router.get(
        "/stream",
        summary="A conversation's stream from an offset on",
        responses={200: {"content": {"text/event-stream": {}}}, **refusals(400, 404, 503)},
    )
    async def read(http: Request) -> Response:
        stream = streams.find(current_key.get().owner, _conversation_id(http))
        if stream is None:
            raise NoSuchStream("This conversation has no stream, or no longer", "conv_id")
        if not stream.has_begun:
            raise NotReady("The stream has not begun; try again")
        offset = _offset(http.query_params.get("from", ""))
        if offset < stream.buffer.n_dropped:
            raise RequestError(
                f"Of the stream, bytes before {stream.buffer.n_dropped:,} are no longer kept; send the "
                "request again",
                "from",
            )
        return Replay(stream.buffer, offset)

    @router.delete(
        "/stream", summary="Stop a conversation's stream", status_code=204, responses=refusals(400)
    )
    async def stop(http: Request) -> None:
        streams.stop(current_key.get().owner, _conversation_id(http))

    @router.post(
        "/streams/lookup", **body_route("Which conversations have a stream", LookupFields, StreamsFound)
    )
    async def lookup(http: Request) -> list[StreamFacts]:
        fields = await read_fields(LookupFields, http)
        owner = current_key.get().owner
        found = streams.matching(owner, fields.conversation_ids)
        return [
            StreamFacts(
                conversation_id=stream.conversation_id,
                is_done=stream.buffer.is_complete,
                total_bytes=stream.buffer.n_bytes,
                started_at=int(stream.started_at),
                completed_at=int(stream.ended_at),
            )
            for stream in found
        ]

    return router


def _conversation_id(http: Request) -> str:
    given = http.query_params.get("conv_id", "")
    if not given:
        raise MissingField("Missing required parameter: 'conv_id'", "conv_id")
    return given


def _offset(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise RequestError("'from' must be a number of bytes", "from")
    return int(text or 0)
