"""The server's reader of the socket pair between its process and the engine's.

Messages are passed on in the event loop's own callback: a task that reads a stream would be woken once more
for each of them, and there is one for each step of the engine.
"""

import asyncio
from collections.abc import Callable

from vram_llm.engine import wire
from vram_llm.errors import VramLLMError


class EngineReader(asyncio.Protocol):
    """Passes the messages of an engine to `take`, in order, until its end is closed or it reports an error.

    `take` returns the error that a message reports, or None. It is the result of `ended`, None at a mere end;
    an exception of `take` is that of `ended`.
    """

    def __init__(self, take: Callable[[wire.FromEngine], VramLLMError | None]) -> None:
        self.ended: asyncio.Future[VramLLMError | None] = asyncio.get_running_loop().create_future()
        self._take = take
        self._unread = bytearray()

    def data_received(self, data: bytes) -> None:
        """Take the messages that are complete."""
        if self.ended.done():
            return
        self._unread += data
        try:
            self._read_messages()
        except Exception as error:  # it is raised where `ended` is awaited
            if not self.ended.done():
                self.ended.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The engine's end is closed."""
        self.stop()

    def stop(self) -> None:
        """Take no more messages."""
        self._end(None)

    def _read_messages(self) -> None:
        unread, start = self._unread, 0
        while not self.ended.done() and len(unread) >= (body := start + wire.HEADER_BYTES):
            end = body + wire.body_length(unread[start:body])
            if len(unread) < end:
                break
            failed = self._take(wire.decode_from_engine(unread[body:end]))
            if failed is not None:
                self._end(failed)
            start = end
        del unread[:start]

    def _end(self, failed: VramLLMError | None) -> None:
        if not self.ended.done():
            self.ended.set_result(failed)
