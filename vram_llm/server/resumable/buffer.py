"""The last bytes of one stream, for readers that come later."""

import asyncio


class OffsetLost(Exception):
    """The bytes from an offset on are no longer kept."""


class StreamBuffer:
    """Keeps at most the last `max_bytes` that are appended. Offsets count from the stream's first byte."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept = bytearray()
        self._changed: asyncio.Event | None = None  # set at the next change; None: nobody waits
        self.n_dropped = 0  # bytes before the first one that is kept
        self.is_complete = False

    @property
    def n_bytes(self) -> int:
        """Bytes of the stream so far, dropped ones included."""
        return self.n_dropped + len(self._kept)

    @property
    def n_kept(self) -> int:
        """Bytes in memory."""
        return len(self._kept)

    def limit(self, max_bytes: int) -> None:
        """Keep at most `max_bytes` from now on."""
        self._max_bytes = max_bytes
        self._trim()

    def append(self, data: bytes) -> None:
        """The stream's next bytes."""
        self._kept += data
        self._trim()
        self._wake()

    def complete(self) -> None:
        """No more bytes come."""
        self.is_complete = True
        self._wake()

    async def read(self, offset: int) -> bytes:
        """The bytes from `offset` on, as soon as there are any; b"" once the stream is over.

        Raises OffsetLost.
        """
        while True:
            if offset < self.n_dropped:
                raise OffsetLost
            if data := bytes(self._kept[offset - self.n_dropped :]):
                return data
            if self.is_complete:
                return b""
            self._changed = self._changed or asyncio.Event()
            await self._changed.wait()

    def _trim(self) -> None:
        n_over = len(self._kept) - self._max_bytes
        if n_over > 0:
            del self._kept[:n_over]
            self.n_dropped += n_over

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None
