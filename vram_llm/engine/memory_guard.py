"""Sheds what the engine can do without while other programs take memory, before an allocation fails.

What is to stay free is half of the plan's reserve on the host and an eighth on each local device, where back
ends have buffers of their own; of what was free after the load, if that is less. Below it, in this order:
idle prefixes are dropped; states of idle conversations on the host are dropped, the oldest first, as many
bytes as are missing; below a quarter of it sequences are preempted one by one, down to a single one. Idle
prefixes free no memory by themselves, but back ends need buffers that grow with the cells in use. States on
the host are bounded by what is free there, at each look.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vram_llm.engine.kv_cache.prefix_cache import PrefixCache
from vram_llm.engine.scheduler import Scheduler
from vram_llm.planner.types import HOST
from vram_llm.units import format_bytes

EVERY_S = 1.0
_HOST_SHARE, _DEVICE_SHARE = 2, 8  # divisors of the reserve
_PREEMPTS_BELOW = 4  # the same, of what is to stay free
_CALM_LOOKS = 10  # without a shortage, after which twice as many sequences may run

Readings = Callable[[], Mapping[str, int]]
"""Free bytes by the id of a device, or HOST."""


@dataclass(slots=True)
class MemoryGuard:
    """Looks at free memory at most once in EVERY_S. `reserves` are the plan's, by device id and HOST."""

    cache: PrefixCache
    scheduler: Scheduler
    readings: Readings
    reserves: Mapping[str, int]
    commit: Callable[[], None] = lambda: None  # called before anything is shed
    clock: Callable[[], float] = time.monotonic
    _marks: dict[str, int] = field(init=False)
    _most_ram_bytes: int = field(init=False)
    _parallel: int = field(init=False)
    _next_s: float = 0.0
    _n_calm: int = 0
    _last_sentence: str = ""

    def __post_init__(self) -> None:
        free = self.readings()
        self._marks = {
            name: min(self.reserves.get(name, 0), n_bytes) // (_HOST_SHARE if name == HOST else _DEVICE_SHARE)
            for name, n_bytes in free.items()
        }
        self._most_ram_bytes = self.cache.store.ram_bytes
        self._parallel = self.scheduler.parallel

    def look(self) -> str | None:
        """Shed what has to go. Returns a sentence if it is another one than before; "": all is well again."""
        now_s = self.clock()
        if now_s < self._next_s:
            return None
        self._next_s = now_s + EVERY_S
        free = self.readings()
        missing = {name: mark - free.get(name, mark) for name, mark in self._marks.items()}
        self._bound_states(-missing[HOST])
        short = [name for name, n_bytes in missing.items() if n_bytes > 0]
        if short:
            self._n_calm = 0
            self.commit()
            is_scarce = any(free[name] < self._marks[name] // _PREEMPTS_BELOW for name in short)
            shed = self._shed(is_host_short=missing[HOST] > 0, is_scarce=is_scarce)
            return self._tell(f"{shed}: {self._where(short, free)}")
        self._n_calm += 1
        if self.scheduler.parallel < self._parallel and self._n_calm >= _CALM_LOOKS:
            self._n_calm = 0
            self.scheduler.run_at_most(min(2 * self.scheduler.parallel, self._parallel))
        return self._tell("") if self.scheduler.parallel == self._parallel else None

    def _bound_states(self, room_bytes: int) -> None:
        """Bound the states on the host by `room_bytes` more than they are; a negative number drops states."""
        store = self.cache.store
        store.limit_ram(max(min(self._most_ram_bytes, store.ram_used_bytes + room_bytes), 0))

    def _shed(self, *, is_host_short: bool, is_scarce: bool) -> str:
        """Shed the next thing. Returns what is gone, and what is there no more, in words."""
        self.cache.drop_idle()
        if is_host_short and self.cache.store.ram_used_bytes:
            return "states of idle conversations on the host are dropped"
        scheduler = self.scheduler
        if is_scarce and len(scheduler.running) > 1:
            scheduler.preempt()
            scheduler.run_at_most(len(scheduler.running))
        if scheduler.parallel < self._parallel:
            return f"no more than {scheduler.parallel} of {self._parallel} sequences run at once"
        return "idle prefixes are dropped"

    def _where(self, short: list[str], free: Mapping[str, int]) -> str:
        places = []
        for name in short:
            kept = format_bytes(self._marks[name])
            places.append(f"{format_bytes(free[name])} are free on {_name(name)}, where {kept} are to stay")
        return " and ".join(places)

    def _tell(self, sentence: str) -> str | None:
        what = sentence.partition(":")[0]
        if what == self._last_sentence.partition(":")[0]:
            return None
        self._last_sentence = sentence
        return sentence


def _name(place: str) -> str:
    return "the host" if place == HOST else place
