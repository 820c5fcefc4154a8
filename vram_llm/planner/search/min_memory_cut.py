"""Cuts of a model into contiguous runs of layers, one for each device, in the best order of devices.

The output is one more item after the layers. Every item adds to the memory of its device, and a run that
starts later never ends earlier. So if each device may use a given share of its budget, it is best, in a given
order, to fill each device as far as possible before the next one. Over all orders, it is enough to know the
furthest item that each set of devices can reach. Bisection of the share gives the cut whose fullest device is
least full. Equal devices are interchangeable.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

from vram_llm.planner.llama_split import placement_of
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.overhead import overhead_bytes
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, Placement

_BISECTIONS = 16
_MAX_SETS = 1024  # sets of devices; with more, only the machine's own order is tried
_WORTH_REORDERING = 0.95  # another order must fill the fullest device below this share of the machine's order

DeviceCounts = tuple[int, ...]  # a set of devices: how many of each class


class LayerRange(NamedTuple):
    """A run of layers on one device: items start to end-1. The output is the item after the layers."""

    device_id: str
    start: int
    end: int


Attempt = Callable[[int, float], list[LayerRange] | None]  # number of items on the host, share of the budgets


class LayerCuts:
    """The possible cuts of `n_layers` layers and the output over the devices of `meter`."""

    def __init__(self, meter: AnalyticMeter, n_layers: int, *, reorder: bool = True) -> None:
        """Without `reorder`, the devices keep the machine's order."""
        self.meter = meter
        self.ids = list(meter.devices)
        self.n_items = n_layers + 1
        self._n_layers = n_layers
        self.classes = _classes(meter)  # ids of equal devices, grouped
        n_sets = math.prod(len(alike) + 1 for alike in self.classes)
        self.reorders = reorder and len(self.classes) > 1 and n_sets <= _MAX_SETS

    def fits(self, n_host: int) -> bool:
        """Whether all items but the first `n_host` fit the devices' budgets."""
        attempts = [self._in_order, *([self._in_any_order] if self.reorders else [])]
        return (
            n_host == self.n_items
            or self._alone(n_host) is not None
            or any(attempt(n_host, 1.0) is not None for attempt in attempts)
        )

    def min_memory_placement(self, n_host: int) -> Placement:
        """The cut of all items but the first `n_host` whose fullest device is least full, as a placement.

        The devices keep the machine's order unless another order leaves noticeably more free memory, or only
        another order fits. One device has all items if several have no memory for pipeline copies. If nothing
        fits, it is the cut that is least over its budgets.
        """
        if n_host == self.n_items or not self.ids:
            return self.placement([])
        if not any(self.meter.budgets.values()):
            return self.placement([LayerRange(self.ids[0], n_host, self.n_items)])
        runs, share = self._least(self._in_order, n_host)
        if self.reorders:
            others, other_share = self._least(self._in_any_order, n_host)
            if other_share < share * _WORTH_REORDERING or other_share <= 1 < share:
                runs, share = others, other_share
        if share > 1 and (alone := self._alone(n_host)) is not None:
            runs = alone
        return self.placement(runs)

    def _least(self, attempt: Attempt, n_host: int) -> tuple[list[LayerRange], float]:
        """The runs with the smallest possible share of the budgets, and that share."""
        low, high = 0.0, 1.0
        while (runs := attempt(n_host, high)) is None:
            low, high = high, 2 * high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if (attempted := attempt(n_host, middle)) is None:
                low = middle
            else:
                high, runs = middle, attempted
        return runs, high

    def _in_order(self, n_host: int, share: float) -> list[LayerRange] | None:
        """The runs that fill the devices one after the other; None if not all items fit."""
        runs, start = [], n_host
        for device_id in self.ids:
            end = self.furthest(device_id, start, n_host, share)
            runs.append(LayerRange(device_id, start, end))
            start = end
        return runs if start == self.n_items else None

    def _in_any_order(self, n_host: int, share: float) -> list[LayerRange] | None:
        """The runs of the best order of the devices; None if not all items fit in any order."""
        nothing: DeviceCounts = (0,) * len(self.classes)
        reached: dict[DeviceCounts, int] = {nothing: n_host}
        last: dict[DeviceCounts, tuple[int, LayerRange]] = {}
        sets = itertools.product(*(range(len(alike) + 1) for alike in self.classes))
        for used in sorted(sets, key=sum):
            for index, alike in enumerate(self.classes):
                if not used[index]:
                    continue
                before = (*used[:index], used[index] - 1, *used[index + 1 :])
                start = reached[before]
                end = self.furthest(alike[before[index]], start, n_host, share)
                if end > reached.get(used, -1):
                    reached[used] = end
                    last[used] = (index, LayerRange(alike[before[index]], start, end))
            if reached[used] == self.n_items:
                return _trace(used, last)
        return None

    def _alone(self, n_host: int) -> list[LayerRange] | None:
        """One run with all items, on the device that is then least full; None if no device can hold them."""
        fullness = {}
        for device_id in self.ids:
            if self.holds_all(device_id, n_host):
                use = self.meter.device_estimate(
                    device_id, n_host, self._n_layers, True, n_host, pipelined=False
                )
                fullness[device_id] = use.total_bytes / use.budget_bytes
        if not fullness:
            return None
        return [LayerRange(min(fullness, key=fullness.__getitem__), n_host, self.n_items)]

    def furthest(self, device_id: str, start: int, n_host: int, share: float) -> int:
        """Exclusive end of the longest run from item `start` that fits `share` of a device's budget."""
        low, high = start, self.n_items
        while low < high:
            end = (low + high + 1) // 2
            if self.holds(device_id, start, end, n_host, share):
                low = end
            else:
                high = end - 1
        return low

    def holds(self, device_id: str, start: int, end: int, n_host: int, share: float = 1.0) -> bool:
        """Whether items start to end-1 fit `share` of a device's budget if other devices are in use too."""
        return self.meter.fits_device(
            device_id,
            start,
            min(end, self._n_layers),
            end == self.n_items,
            n_host,
            pipelined=n_host == 0 and self.meter.may_pipeline,
            share=share,
        )

    def holds_all(self, device_id: str, n_host: int) -> bool:
        """Whether all items but the first `n_host` fit the budget of a device that is used alone."""
        return self.meter.fits_device(device_id, n_host, self._n_layers, True, n_host, pipelined=False)

    def placement(self, runs: list[LayerRange], overrides: tuple[Override, ...] = ()) -> Placement:
        """The placement of these runs; the items before them stay on the host."""
        n_host = runs[0].start if runs else self.n_items
        assignment = [-1] * n_host
        for index, run in enumerate(runs):
            assignment += [index] * (run.end - run.start)
        ids = [run.device_id for run in runs]
        without_layers = {override.device for override in overrides} - {*ids, HOST}
        ids += [device_id for device_id in self.ids if device_id in without_layers]
        return placement_of(ids, assignment, overrides)


def _classes(meter: AnalyticMeter) -> list[list[str]]:
    """The ids of the devices, grouped by equal memory use, budget and speed."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for device in meter.devices.values():
        key = (
            device.kind, meter.budgets[device.id], device.alignment_bytes, device.row_padding,
            overhead_bytes(device), device.companion_bytes, device.speed, device.link,
        )  # fmt: skip
        alike.setdefault(key, []).append(device.id)
    return list(alike.values())


def _trace(used: DeviceCounts, last: dict[DeviceCounts, tuple[int, LayerRange]]) -> list[LayerRange]:
    """The runs that lead to the set `used`, in their order."""
    runs = []
    while any(used):
        index, run = last[used]
        runs.append(run)
        used = (*used[:index], used[index] - 1, *used[index + 1 :])
    return runs[::-1]
