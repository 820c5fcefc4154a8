"""The streams that clients may come back for, by the conversation's id: one of each conversation."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from vram_llm.server.resumable.buffer import StreamBuffer
from vram_llm.units import MIB

KEPT_S = 300  # after a stream's end; this and the next are llama-server's
MAX_STREAM_BYTES = 4 * MIB
MAX_BYTES = 128 * MIB  # of all streams together
MAX_STREAMS = 1024
MODEL_SEPARATOR = "::"  # between a conversation's own id and the model's name
_SEPARATORS = re.compile(f"(?<=.)(?={MODEL_SEPARATOR})", re.DOTALL)  # an id is not empty
Owner = int  # ApiKey.owner: keys do not see each other's streams


@dataclass(eq=False)
class ResumableStream:
    """A stream of one conversation. Times are Unix seconds; `ended_at` 0: it is not over."""

    conversation_id: str
    buffer: StreamBuffer
    started_at: float
    ended_at: float = 0.0
    has_begun: bool = False  # its headers were sent
    stopped: asyncio.Event = field(default_factory=asyncio.Event)  # by its client, or by the next one


class ResumableStreams:
    """All streams of a server, in at most `max_bytes`. Use from one event loop.

    `clock` gives Unix seconds. At most `max_streams` that have ended are kept.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        max_bytes: int = MAX_BYTES,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._max_streams = max_streams
        self._streams: dict[tuple[Owner, str], ResumableStream] = {}

    def begin(self, owner: Owner, conversation_id: str) -> ResumableStream:
        """A new stream; the conversation's earlier one is stopped."""
        self.stop(owner, conversation_id)
        self.expire()
        ended = [key for key, stream in self._streams.items() if stream.ended_at]
        for key in ended[: max(len(self._streams) + 1 - self._max_streams, 0)]:
            del self._streams[key]
        stream = ResumableStream(conversation_id, StreamBuffer(MAX_STREAM_BYTES), self._clock())
        self._streams[owner, conversation_id] = stream
        self._share_memory()
        return stream

    def end(self, owner: Owner, stream: ResumableStream) -> None:
        """No more bytes come. A stream that has not begun is forgotten."""
        stream.ended_at = self._clock()
        stream.buffer.complete()
        key = owner, stream.conversation_id
        if self._streams.get(key) is stream and not stream.has_begun:
            del self._streams[key]
        asyncio.get_running_loop().call_later(KEPT_S + 1, self.expire)

    def find(self, owner: Owner, conversation_id: str) -> ResumableStream | None:
        """A conversation's stream; None if there is none, or no longer."""
        self.expire()
        return self._streams.get((owner, conversation_id))

    def matching(self, owner: Owner, conversation_ids: Iterable[str]) -> list[ResumableStream]:
        """The streams of conversations with any model, in the order in which they began."""
        self.expire()
        wanted = frozenset(conversation_ids)
        return [
            stream
            for (theirs, name), stream in self._streams.items()
            if theirs == owner and not wanted.isdisjoint(_ids_of(name))
        ]

    def stop(self, owner: Owner, conversation_id: str) -> None:
        """End a stream and forget it; if there is none, nothing happens."""
        stream = self._streams.pop((owner, conversation_id), None)
        if stream is not None:
            stream.stopped.set()
            stream.buffer.complete()

    def expire(self) -> None:
        """Forget streams that ended long ago."""
        limit = self._clock() - KEPT_S
        for key in [key for key, stream in self._streams.items() if 0 < stream.ended_at <= limit]:
            del self._streams[key]

    def _share_memory(self) -> None:
        """Divide the memory among the streams: each keeps less the more there are."""
        share = min(MAX_STREAM_BYTES, self._max_bytes // len(self._streams))
        for stream in self._streams.values():
            stream.buffer.limit(share)


def _ids_of(name: str) -> Iterator[str]:
    """The ids by which a stream of this name is found: the name, and what stands before each separator."""
    yield name
    yield from (name[: found.start()] for found in _SEPARATORS.finditer(name))
