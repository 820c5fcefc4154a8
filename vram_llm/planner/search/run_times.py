"""The least time of every run of items on one device, with moved parts of layers if the run does not fit.

If a run exceeds the device's budget, parts of its layers move. Its least time does not depend on other
devices, if the parts move to a place with enough memory.
"""

from functools import cached_property
from math import inf
from operator import add
from typing import NamedTuple

from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.cheapest_moves import CheapestMoves
from vram_llm.planner.search.movable_parts import MovableParts
from vram_llm.planner.search.order_search import Times


class RunBytes:
    """Bytes of runs of items on devices, before parts of their layers move."""

    def __init__(self, parts: MovableParts, meter: AnalyticMeter, n_layers: int) -> None:
        self.n_items, self.n_layers = n_layers + 1, n_layers
        self.parts, self.meter = parts, meter
        self._compute: dict[bool, int] = {}
        self._with_parts = [layer for layer, choices in enumerate(parts.choices) if choices]
        self._overridden = {device_id: parts.overridden_bytes(device_id) for device_id in meter.devices}
        self._overridden_sums = {device_id: parts.overridden_sums(device_id) for device_id in meter.devices}

    def bytes_of(self, device_id: str, start: int, end: int) -> int:
        """Bytes of a run with all its movable parts; compute is that of a device with all layers."""
        has_output, last = end == self.n_items, min(end, self.n_layers)
        loaded = self.meter.bytes_without_compute(device_id, start, last, has_output)
        return loaded + self._compute_bytes(device_id, has_output) + self._moved_bytes(device_id, start, end)

    def least_bytes(self, device_id: str, start: int, end: int, n_host: int) -> int:
        """`bytes_of`, with the least compute of the run with any of its parts moved."""
        has_output, last = end == self.n_items, min(end, self.n_layers)
        use = self.meter.device_estimate(device_id, start, last, has_output, n_host, False)
        own = range(start, last)
        least = self.meter.least_compute_bytes(own, has_output=has_output, n_host=n_host)
        saved_bytes = max(use.compute_bytes - least, 0)
        return use.total_bytes - saved_bytes + self._moved_bytes(device_id, start, end)

    def empty_bytes(self, device_id: str, *, with_compute: bool = True) -> int:
        """Bytes of a device without layers; with compute for all parts that may move to it."""
        compute = self._moved_compute_bytes if with_compute else 0
        loaded = self.meter.bytes_without_compute(device_id, 0, 0, False)
        return loaded + compute + self._overridden[device_id]

    @cached_property
    def _moved_compute_bytes(self) -> int:
        """Compute bytes of a device for all parts that may move to it."""
        return self.meter.moved_compute_bytes(self._with_parts)

    def _moved_bytes(self, device_id: str, start: int, end: int) -> int:
        """Bytes that the user's overrides add to a device with a run, minus those that they remove."""
        sums = self._overridden_sums[device_id]
        return self._overridden[device_id] - sums[min(end, self.n_layers)] + sums[start]

    def _compute_bytes(self, device_id: str, has_output: bool) -> int:
        """Compute bytes of a device with all layers, with or without the output; shorter runs need less."""
        found = self._compute.get(has_output)
        if found is None:
            use = self.meter.device_estimate(device_id, 0, self.n_layers, has_output, 0, False)
            found = self._compute[has_output] = use.compute_bytes
        return found


class RunTimes(NamedTuple):
    """Seconds of the runs of one device."""

    firsts: list[int]  # by end: the first start with which a run fits
    rows: list[list[float]]  # rows[end][start - firsts[end]]: of items start to end-1

    def step(self, before: Times) -> tuple[Times, list[int]]:
        """The least time to reach each item with one more run, and the first item of that run."""
        times, starts = [inf] * len(before), [0] * len(before)
        for end, (first, row) in enumerate(zip(self.firsts, self.rows, strict=True)):
            if row:
                sums = list(map(add, before[first:end], row))
                times[end] = least = min(sums)
                starts[end] = first + sums.index(least)
        return times, starts


def run_times(
    run_bytes: RunBytes, device_id: str, budget_bytes: int, place: str, most_s: float = inf
) -> RunTimes:
    """The least seconds of every run that fits `budget_bytes`, with moved parts on `place`.

    Runs that take longer than `most_s` are left out.
    """
    n_items, n_layers = run_bytes.n_items, run_bytes.n_layers
    round_trip_bytes = run_bytes.meter.round_trip_bytes
    costs, cheapest_moves = run_bytes.parts.costs(device_id), CheapestMoves(run_bytes.parts, device_id, place)
    firsts = list(range(n_items + 1))
    rows: list[list[float]] = [[] for _ in range(n_items + 1)]
    for start in range(n_items - 1, -1, -1):
        for end in range(start + 1, n_items + 1):
            over_bytes = run_bytes.bytes_of(device_id, start, end) - budget_bytes
            moves_s = 0.0 if over_bytes <= 0 else inf
            if over_bytes > 0 or cheapest_moves.has_gains:
                needed_bytes = over_bytes + round_trip_bytes
                move_set = cheapest_moves.cheapest(start, min(end, n_layers), needed_bytes)
                moves_s = min(moves_s, move_set.seconds)
            seconds = costs.run(start, end) + moves_s
            if seconds == inf or seconds > most_s:
                break  # a longer run does not fit either, and takes no less time
            if firsts[end] == start + 1:
                firsts[end] = start
                rows[end].append(seconds)
    return RunTimes(firsts, [row[::-1] for row in rows])
