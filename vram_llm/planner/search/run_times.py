"""The least time of every run of items on one device, with parts of its layers elsewhere if they do not fit.

A run that takes more bytes than the device has room for loses parts. The least time in which it does so does
not depend on other devices, if the parts go to a place that has room for them.
"""

from math import inf
from operator import add
from typing import NamedTuple

from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.losses import Losses
from vram_llm.planner.search.movable_parts import MovableParts
from vram_llm.planner.search.order_search import Times


class Layout:
    """Bytes of runs of items, before parts of their layers move."""

    def __init__(self, parts: MovableParts, meter: AnalyticMeter, n_layers: int) -> None:
        self.n_items, self.n_layers = n_layers + 1, n_layers
        self.parts, self.meter = parts, meter
        self._compute: dict[bool, int] = {}
        self._with_parts = [layer for layer, choices in enumerate(parts.choices) if choices]
        self._dictated = {device_id: parts.dictated_bytes(device_id) for device_id in meter.devices}
        self._dictated_sums = {device_id: parts.dictated_sums(device_id) for device_id in meter.devices}

    def bytes_of(self, device_id: str, start: int, end: int) -> int:
        """Bytes of a run with all parts that may move; compute is that of all layers."""
        has_output, last = end == self.n_items, min(end, self.n_layers)
        loaded = self.meter.bytes_without_compute(device_id, start, last, has_output)
        return loaded + self._compute_bytes(device_id, has_output) + self._moved_bytes(device_id, start, end)

    def least_bytes(self, device_id: str, start: int, end: int, n_host: int) -> int:
        """Like `bytes_of`, with the least compute that the run has with any of its parts elsewhere."""
        has_output, last = end == self.n_items, min(end, self.n_layers)
        use = self.meter.device_estimate(device_id, start, last, has_output, n_host, False)
        own = range(start, last)
        least = self.meter.least_compute_bytes(own, has_output=has_output, n_host=n_host)
        less = max(use.compute_bytes - least, 0)
        return use.total_bytes - less + self._moved_bytes(device_id, start, end)

    def empty_bytes(self, device_id: str, *, with_compute: bool = True) -> int:
        """Bytes of a device without layers, with compute for all parts that may move there."""
        compute = self.meter.moved_compute_bytes(self._with_parts) if with_compute else 0
        loaded = self.meter.bytes_without_compute(device_id, 0, 0, False)
        return loaded + compute + self._dictated[device_id]

    def _moved_bytes(self, device_id: str, start: int, end: int) -> int:
        """Bytes that the user's overrides put on a device, less those of a run that they decide about."""
        sums = self._dictated_sums[device_id]
        return self._dictated[device_id] - sums[min(end, self.n_layers)] + sums[start]

    def _compute_bytes(self, device_id: str, has_output: bool) -> int:
        """Compute bytes of all layers, with the output or without; a shorter run hardly needs more."""
        if has_output not in self._compute:
            use = self.meter.device_estimate(device_id, 0, self.n_layers, has_output, 0, False)
            self._compute[has_output] = use.compute_bytes
        return self._compute[has_output]


class RunTimes(NamedTuple):
    """Seconds of the runs of one device: of items start to end-1 in rows[end][start - firsts[end]]."""

    firsts: list[int]  # by end: the first start with which the run fits
    rows: list[list[float]]

    def step(self, before: Times) -> tuple[Times, list[int]]:
        """The least time to reach each item with one more run, and the first item of that run."""
        times, starts = [inf] * len(before), [0] * len(before)
        for end, (first, row) in enumerate(zip(self.firsts, self.rows, strict=True)):
            if row:
                sums = list(map(add, before[first:end], row))
                times[end] = least = min(sums)
                starts[end] = first + sums.index(least)
        return times, starts


def run_times(layout: Layout, device_id: str, room_bytes: int, place: str) -> RunTimes:
    """The least seconds of every run that fits `room_bytes`, if lost parts go to `place`."""
    n_items, n_layers, round_trip_bytes = layout.n_items, layout.n_layers, layout.meter.round_trip_bytes
    costs, losses = layout.parts.costs(device_id), Losses(layout.parts, device_id, place)
    firsts = list(range(n_items + 1))
    rows: list[list[float]] = [[] for _ in range(n_items + 1)]
    for start in range(n_items - 1, -1, -1):
        for end in range(start + 1, n_items + 1):
            over = layout.bytes_of(device_id, start, end) - room_bytes
            least = 0.0 if over <= 0 else inf
            if over > 0 or losses.gains:
                least = min(least, losses.least(start, min(end, n_layers), over + round_trip_bytes).seconds)
            if least == inf:
                break  # a longer run does not fit either
            if firsts[end] == start + 1:
                firsts[end] = start
                rows[end].append(costs.run(start, end) + least)
    return RunTimes(firsts, [row[::-1] for row in rows])
