"""Server-sent events: a reply is sent while it is generated.

One event of the engine becomes one chunk. Only its text is encoded for it; the other bytes of a chunk are
constant.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vram_llm.engine.request import TokenEvent
from vram_llm.errors import VramLLMError
from vram_llm.server.direct_events import DirectEvents, PieceWriter, pieces_of
from vram_llm.server.errors import error_body, error_response
from vram_llm.server.generation import cancel_and_wait, while_connected
from vram_llm.server.replay import REPLAYED
from vram_llm.server.replies import ReplyHead, UsageCounter
from vram_llm.server.request_record import note_error, record_of_request
from vram_llm.server.schemas import GenerationFields
from vram_llm.server.timings import ChoiceClock, Clocks, timings_of

log = logging.getLogger(__name__)
DONE = b"data: [DONE]\n\n"
_BEGINS = b'"delta":{"role":'  # in chunks that begin a message; never in texts, whose quotes are escaped
COMMENT = b": waiting\n\n"  # clients ignore comments
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the stream back
]
_encode = msgspec.json.encode
Item = TypeVar("Item")
Read = TypeVar("Read", contravariant=True)


class Writer(Protocol[Read]):
    """Encodes a reply as server-sent events."""

    def opening(self) -> bytes:
        """Bytes before the first event."""

    def event(self, index: int, item: Read, /) -> bytes:
        """Bytes of the next event of choice `index`."""

    def closing(self) -> bytes:
        """Bytes after the end of all choices."""

    def failure(self, error: Exception) -> bytes:
        """The last bytes of a reply that an error ends."""


class Chunks(Generic[Item]):
    """Writes OpenAI's chunks of one reply."""

    object: ClassVar[str]
    before_text: ClassVar[bytes]
    after_text: ClassVar[bytes]
    nothing: ClassVar[bytes]

    def __init__(
        self, head: ReplyHead, n_choices: int, counter: UsageCounter, *, include_usage: bool
    ) -> None:
        facts = {
            "id": head.id,
            "object": self.object,
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
        }
        self._head = b"data: " + _encode(facts)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._include_usage = include_usage
        self.times_end = True
        self._tally = counter
        self._text_begins = [
            self._head + b'{"index":%d,' % index + self.before_text for index in range(n_choices)
        ]
        self._text_ends = self.after_text + b',"logprobs":null,"finish_reason":null}' + self._tail

    def opening(self) -> bytes:
        """Bytes before the first text."""
        return b""

    def event(self, index: int, item: Item) -> bytes:
        """The chunks for `item`; empty if it has no content."""
        raise NotImplementedError

    def closing(self) -> bytes:
        """Bytes after the end of all choices."""
        if not self._include_usage:
            return DONE
        usage = self._tally.usage().model_dump_json().encode()
        return self._head + b'],"usage":' + usage + b"}\n\n" + DONE

    def failure(self, error: Exception) -> bytes:
        """A data line with `error`; no [DONE] follows."""
        return b"data: " + _encode(error_body(error)) + b"\n\n"

    def _finish(self, index: int, reason: bytes) -> bytes:
        """The last chunk of choice `index`, with the timings unless all chunks get them."""
        chunk = self._choice(index, self.nothing, reason)
        return with_member(chunk, "timings", timings_of(record_of_request())) if self.times_end else chunk

    def bare(self, index: int) -> bytes:
        """A chunk without content, of choice `index`."""
        return self._choice(index, self.nothing)

    def text(self, index: int, text: str) -> bytes:
        """A chunk of text."""
        return self._text_begins[index] + _encode(text) + self._text_ends

    def _likely(self, index: int, text: str, logprobs: BaseModel) -> bytes:
        details = b',"logprobs":' + logprobs.model_dump_json().encode() + b',"finish_reason":null}'
        return self._text_begins[index] + _encode(text) + self.after_text + details + self._tail

    def _choice(self, index: int, what: bytes, reason: bytes = b"null") -> bytes:
        choice = b'{"index":%d,%b,"logprobs":null,"finish_reason":%b}' % (index, what, reason)
        return self._head + choice + self._tail


class TimedChunks(Generic[Item]):
    """Chunks with the prompt's progress or the choice's timings, as llama-server sends them."""

    def __init__(
        self,
        chunks: Chunks[Item],
        clocks: Clocks,
        token_of: Callable[[Item], TokenEvent],
        *,
        progress: bool,
        timings: bool,
    ) -> None:
        self._chunks = chunks
        self._clocks = clocks
        self._token_of = token_of
        self._progress = progress
        self._timings = timings
        chunks.times_end = not timings
        self.opening, self.failure = chunks.opening, chunks.failure

    def event(self, index: int, item: Item) -> bytes:
        """The chunks for `item`, with progress and timings if requested."""
        token, clock, chunk = self._token_of(item), self._clocks[index], self._chunks.event(index, item)
        if self._progress and token.prompt_tokens:  # 0 in most events after the first token's
            reports = clock.progress(token)
            bare = self._chunks.bare(index)
            chunk = b"".join(with_member(bare, "prompt_progress", report) for report in reports) + chunk
        return self._timed(chunk, clock)

    def closing(self) -> bytes:
        """The closing chunks, with timings if requested."""
        return self._timed(self._chunks.closing(), self._clocks[0])

    def _timed(self, chunks: bytes, clock: ChoiceClock) -> bytes:
        """`chunks` with timings, except chunks that only begin a message."""
        if not self._timings:
            return chunks
        begun, end, rest = chunks.rpartition(_BEGINS)
        if not end:
            return with_member(chunks, "timings", clock.timings())
        rest, end_of_role, texts = rest.partition(b"}\n\n")
        return begun + end + rest + end_of_role + with_member(texts, "timings", clock.timings())


class VerboseFirstChunk(Generic[Read]):
    """A writer that adds `verbose` to its first chunk, as `__verbose`."""

    def __init__(self, writer: Writer[Read], verbose: dict[str, Any]) -> None:
        self._writer = writer
        self._verbose: dict[str, Any] | None = verbose
        self.opening, self.closing, self.failure = writer.opening, writer.closing, writer.failure

    def event(self, index: int, item: Read) -> bytes:
        """The chunks for `item`."""
        chunks = self._writer.event(index, item)
        if not chunks or self._verbose is None:
            return chunks
        verbose, self._verbose = self._verbose, None
        first, end, rest = chunks.partition(b"}\n\n")
        return with_member(first + end, "__verbose", verbose) + rest


def with_timings(
    chunks: Chunks[Item], clocks: Clocks, fields: GenerationFields, token_of: Callable[[Item], TokenEvent]
) -> Writer[Item]:
    """`chunks`, with progress and timings if `fields` ask for them. There are `clocks` only then."""
    if not clocks:
        return chunks
    progress, timings = bool(fields.return_progress), bool(fields.timings_per_token)
    return TimedChunks(chunks, clocks, token_of, progress=progress, timings=timings)


def with_member(chunks: bytes, name: str, value: object) -> bytes:
    """`chunks`, each with one more member. JSON has no raw line ends, so only a chunk's end matches."""
    return chunks.replace(b"}\n\n", b',"%b":%b}\n\n' % (name.encode(), _encode(value)))


class EventStream(Response, Generic[Item]):
    """Sends a reply chunk by chunk.

    The headers are sent with the first bytes of `events`, thus not with the prompt's progress unless it was
    requested, or after `ping_interval_s`. After each such interval of silence a comment is sent, so that
    clients and proxies keep the connection (0: never). An error before the headers becomes an answer with its
    own status, made by `refuse`, or, if the model has changed, the request is handled again (replay.py); a
    later error is written by `writer`. A client that disconnects closes `events` at once.

    After the first text, `direct` events are written as they come, if the connection can do that.
    """

    def __init__(
        self,
        writer: Writer[Item],
        events: AsyncGenerator[tuple[int, Item], None],
        ping_interval_s: float,
        refuse: Callable[[Exception], Response] = error_response,
        *,
        direct: DirectEvents[Item] | None = None,
    ) -> None:
        self.background = None
        self._direct = direct
        self._ping_interval_s = ping_interval_s or None
        self._silent = True  # since the last ping
        self._has_begun = False  # whether the headers are sent
        self._is_open = False  # whether an event's bytes are
        self._beginning = asyncio.Lock()
        self._writer = writer
        self._events = events
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._run(scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events) as events:
            pings = Pings(self._ping_interval_s, partial(self._ping, send))
            try:
                last = await self._write(events, send, pieces_of(scope))
            except Exception as error:
                await pings.end()  # they may be about to send the headers
                if not self._has_begun and isinstance(error, REPLAYED):
                    raise
                _log(error)
                if not self._has_begun:  # the error gets its own status
                    await self._refuse(error)(scope, receive, send)
                    return
                last = self._writer.failure(error)  # the stream's last line
            finally:
                await pings.end()
            await send_body(send, last, more=False)

    async def _write(
        self, events: AsyncGenerator[tuple[int, Item], None], send: Send, pieces: PieceWriter | None
    ) -> bytes:
        """Send all bytes but the last, and return those. The opening goes with the first event's bytes."""
        opening = self._writer.opening()
        if self._direct is not None and pieces is not None:
            self._direct.offer(partial(self._take, self._direct.read, pieces))
        async for index, event in events:
            if chunk := self._writer.event(index, event):
                await self._send(send, opening + chunk)
                opening, self._is_open = b"", True
        if opening or not self._has_begun:
            await self._send(send, opening)
        return self._writer.closing()

    def _take(self, read: Callable[[TokenEvent], Item], pieces: PieceWriter, event: TokenEvent) -> bool:
        """Write an event at once; False: the connection is not ready for it.

        Of the events before the first text, those of the prompt's progress are passed over.
        """
        if not self._is_open:
            return event.prompt_done is not None
        if not pieces.is_ready:
            return False
        if chunk := self._writer.event(0, read(event)):
            self._silent = False
            pieces.write(chunk)
        return True

    async def _send(self, send: Send, chunk: bytes) -> None:
        self._silent = False
        if not self._has_begun:
            await self._begin(send)
        if chunk:
            await send_body(send, chunk)

    async def _begin(self, send: Send) -> None:
        """Send the headers, unless they are sent."""
        async with self._beginning:
            if not self._has_begun:
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS[:]})
                self._has_begun = True

    async def _ping(self, send: Send) -> None:
        """Send a comment after an interval of silence."""
        if self._silent:
            await self._begin(send)
            await send_body(send, COMMENT)
        self._silent = True


class Pings:
    """Calls `ping` after each interval until `end`; None: never. A task is made after the first interval."""

    def __init__(self, interval_s: float | None, ping: Callable[[], Awaitable[None]]) -> None:
        self._interval_s = interval_s or 0.0
        self._ping = ping
        self._tasks: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        self._timer = None if interval_s is None else loop.call_later(interval_s, self._begin)

    def _begin(self) -> None:
        self._tasks.append(asyncio.create_task(self._run()))

    async def _run(self) -> None:
        while True:
            await self._ping()
            await asyncio.sleep(self._interval_s)  # until the next one is due

    async def end(self) -> None:
        """Ping no more; returns once the last ping has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self._tasks:
            await cancel_and_wait(*self._tasks)


async def send_body(send: Send, body: bytes, more: bool = True) -> None:
    """Send a piece of a body."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _log(error: Exception) -> None:
    note_error(error)
    if not isinstance(error, VramLLMError):
        log.error("A stream failed (%s)", record_of_request().id, exc_info=error)
