"""Events of a fleet for its readers."""

import asyncio
from collections.abc import AsyncIterator

from vram_llm.fleet.snapshots import FleetEvent

MAX_BEHIND = 1024  # events that a reader has not taken; older ones are dropped


class Changes:
    """Passes events on to each reader."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Queue[FleetEvent | None]] = set()

    def add(self, event: FleetEvent) -> None:
        """Pass an event to all that read now."""
        for reader in self._readers:
            _put(reader, event)

    def close(self) -> None:
        """End all iterators."""
        for reader in self._readers:
            _put(reader, None)

    def read(self) -> AsyncIterator[FleetEvent]:
        """The events from this call on."""
        reader: asyncio.Queue[FleetEvent | None] = asyncio.Queue(MAX_BEHIND)
        self._readers.add(reader)
        return self._read(reader)

    async def _read(self, reader: "asyncio.Queue[FleetEvent | None]") -> AsyncIterator[FleetEvent]:
        try:
            while (event := await reader.get()) is not None:
                yield event
        finally:
            self._readers.discard(reader)


def _put(reader: "asyncio.Queue[FleetEvent | None]", event: FleetEvent | None) -> None:
    if reader.full():
        reader.get_nowait()
    reader.put_nowait(event)
