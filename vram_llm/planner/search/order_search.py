"""The cut of the items into runs over devices in the best order, by dynamic programming.

The time of a run on a device does not depend on the other devices. So the search covers all orders of all
subsets of the devices: for each set of devices and each item, it computes the least time of all items up to
that one on the set. Sets and items are few. A partial cut that cannot beat the best complete cut is dropped.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from vram_llm.planner.search.min_memory_cut import DeviceCounts, LayerRange

Times = list[float]  # seconds, by the number of items that are on devices so far
Step = Callable[[Times], tuple[Times, list[int]]]
"""Adds a run on a device: gives the least time up to each item with it, and the first item of that run."""


class Cut(NamedTuple):
    """Runs in the order of computation, and their seconds with those of the items before them."""

    runs: list[LayerRange]
    seconds: float


def in_order(ids: Sequence[str], steps: Mapping[str, Step], at_start: Times) -> Cut | None:
    """The best cut in the order of `ids`, which may leave devices unused; None if no cut fits."""
    least = at_start
    starts_by_device = []
    for device_id in ids:
        times, starts = steps[device_id](least)
        used = [start if with_run < without else -1
                for start, with_run, without in zip(starts, times, least, strict=True)]  # fmt: skip
        starts_by_device.append((device_id, used))
        least = list(map(min, times, least))
    if least[-1] == inf:
        return None
    runs, end = [], len(least) - 1
    for device_id, starts in reversed(starts_by_device):
        if starts[end] >= 0:
            runs.append(LayerRange(device_id, starts[end], end))
            end = starts[end]
    return Cut(runs[::-1], least[-1])


def in_any_order(
    classes: Sequence[Sequence[str]], steps: Mapping[str, Step], at_start: Times, rest: Times, best: float
) -> Cut | None:
    """The best cut over all orders of all subsets; None if no cut takes less than `best` seconds.

    Devices of one class are interchangeable. `rest[i]` is a lower bound of the time of the items from i on.
    """
    nothing: DeviceCounts = (0,) * len(classes)
    least = {nothing: at_start}
    last: dict[DeviceCounts, list[tuple[float, int, int]]] = {}  # time, class and start, by item
    finished = None
    for used in sorted(itertools.product(*(range(len(alike) + 1) for alike in classes)), key=sum):
        last_runs = []
        for index, alike in enumerate(classes):
            before = least.get(without_one(used, index)) if used[index] else None
            if before is not None:
                times, starts = steps[alike[used[index] - 1]](before)
                last_runs.append([(time, index, start) for time, start in zip(times, starts, strict=True)])
        if not last_runs:
            continue
        last[used] = [min(options) for options in zip(*last_runs, strict=True)]
        if last[used][-1][0] < best:
            best, finished = last[used][-1][0], used
        times = [
            run[0] if run[0] + rest_s < best else inf for run, rest_s in zip(last[used], rest, strict=True)
        ]
        if min(times) < inf:
            least[used] = times
    if finished is None:
        return None
    runs, used, end = [], finished, len(at_start) - 1
    while used != nothing:
        _, index, start = last[used][end]
        runs.append(LayerRange(classes[index][used[index] - 1], start, end))
        used, end = without_one(used, index), start
    return Cut(runs[::-1], best)


def without_one(used: DeviceCounts, index: int) -> DeviceCounts:
    """`used` without one device of the class `index`."""
    return (*used[:index], used[index] - 1, *used[index + 1 :])
