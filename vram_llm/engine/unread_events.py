"""Events of an answer between their arrival and their reader, or whoever takes them at once."""

import asyncio
from collections import deque
from collections.abc import Callable

from vram_llm.engine.request import TokenEvent
from vram_llm.errors import RequestTimeout, VramLLMError

MAX_UNREAD = 8192  # events of an answer that its client has not read
TakeEvent = Callable[[TokenEvent], bool]  # False: the event is left to the reader


class UnreadEvents:
    """The events of one answer that its one reader has not taken, and the error that ends it.

    `on_overflow` is called with the event after MAX_UNREAD, in whose place an error is the last one. It has
    no more than one reader and one future, since one of its events is made and read for every token. While
    the reader waits, events are offered to `take_at_once`, except the last one: the reader is not woken for
    those that it takes. An error that it raises comes to the reader.
    """

    def __init__(self, on_overflow: Callable[[], None], take_at_once: TakeEvent | None = None) -> None:
        self._take_at_once = take_at_once
        self._events: deque[TokenEvent | Exception] = deque()
        self._arrival: asyncio.Future[None] | None = None  # while the reader waits
        self._on_overflow = on_overflow

    def put(self, event: TokenEvent | Exception) -> None:
        """Append an event, unless it is taken at once. After an overflow nothing happens."""
        if self._take_at_once is not None and self._is_awaited and isinstance(event, TokenEvent):
            try:
                if event.finish_reason is None and self._take_at_once(event):
                    return
            except Exception as error:  # of the answer: it must not end the engine's reader
                event = error
        n_unread = len(self._events)
        if n_unread < MAX_UNREAD:
            self._events.append(event)
        elif n_unread == MAX_UNREAD:
            self._events.append(_unread())
            self._on_overflow()
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    @property
    def _is_awaited(self) -> bool:
        """Whether the reader waits, and so has read all events."""
        return self._arrival is not None and not self._arrival.done()

    async def take(self) -> TokenEvent | Exception:
        """The next event. Waits for one."""
        while not self._events:
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        return self._events.popleft()


def _unread() -> VramLLMError:
    return RequestTimeout(
        f"the client left {MAX_UNREAD:,} pieces of the answer unread, so the answer was ended; read it faster"
    )
