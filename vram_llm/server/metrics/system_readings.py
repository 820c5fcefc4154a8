"""Readings of cards and host for all who ask, taken in a thread at most once a second."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Thread

from vram_llm.machine.device_readings import DeviceReader, DeviceReading
from vram_llm.machine.host import HostReading, read_host_memory
from vram_llm.machine.types import Device

EVERY_S = 1.0
_MOST_S = 2.0  # a driver may hang with a card that is gone


@dataclass(frozen=True, slots=True)
class SystemReading:
    """All cards that NVIDIA's driver lists, and the host."""

    cards: tuple[DeviceReading, ...]
    host: HostReading

    def card(self, device: Device) -> DeviceReading | None:
        """The card that a device is, by its identity; None for a worker's, or another maker's."""
        if device.endpoint is not None:
            return None
        for card in self.cards:
            if device.uuid == card.uuid if device.uuid else device.pci_bus_id == card.pci_bus_id:
                return card
        return None


class SystemReadings:
    """The latest readings. Use from one event loop."""

    def __init__(
        self,
        devices: DeviceReader | None = None,
        clock: Callable[[], float] = time.monotonic,
        most_s: float = _MOST_S,
    ) -> None:
        self._devices = devices or DeviceReader()
        self._clock = clock
        self._most_s = most_s
        self._taking: asyncio.Future[SystemReading] | None = None
        self._latest: SystemReading | None = None
        self._taken_at = 0.0

    async def latest(self, pid: int | None) -> SystemReading:
        """Readings that are not older than EVERY_S, with the host's memory of process `pid`.

        While the driver does not answer, older ones, or those of the host alone.
        """
        if (fresh := self._fresh) is not None:
            return fresh
        if self._taking is None or self._taking.done():
            self._taking = _in_daemon(partial(self._take, pid))
        taking = self._taking
        await asyncio.wait({taking}, timeout=self._most_s)
        return taking.result() if taking.done() else self._latest or SystemReading((), read_host_memory(pid))

    @property
    def _fresh(self) -> SystemReading | None:
        return self._latest if self._clock() - self._taken_at < EVERY_S else None

    def _take(self, pid: int | None) -> SystemReading:
        latest = SystemReading(self._devices.read(), read_host_memory(pid))
        self._latest, self._taken_at = latest, self._clock()
        return latest


def _in_daemon(take: Callable[[], SystemReading]) -> asyncio.Future[SystemReading]:
    """Call `take` in a thread that does not hold up the program's end: a driver may never answer."""
    loop = asyncio.get_running_loop()
    taken: asyncio.Future[SystemReading] = loop.create_future()

    def settle(reading: SystemReading | None, error: Exception | None) -> None:
        if taken.cancelled():
            return
        if reading is not None:
            taken.set_result(reading)
        elif error is not None:
            taken.set_exception(error)

    def run() -> None:
        reading, failure = None, None
        try:
            reading = take()
        except Exception as error:  # it is the caller's
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, reading, failure)

    Thread(target=run, name="readings", daemon=True).start()
    return taken
