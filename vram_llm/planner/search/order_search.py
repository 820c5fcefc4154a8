"""The cut of the items into runs over devices in the best order, by dynamic programming.

The time of a run on a device does not depend on the other devices. So the search covers all orders of all
subsets of the devices: for each set of devices and each item, the least time in which the set can hold all
items up to that one. Sets and items are few. A partial cut that cannot beat the best complete cut is dropped.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

from vram_llm.planner.search.min_memory_cut import Run, Used

Times = list[float]  # seconds, by number of items done
Step = Callable[[Times], tuple[Times, list[int]]]
"""One more run on a device: the least time to reach each item with it, and the first item of that run."""


class Cut(NamedTuple):
    """Runs in the order they compute, and their seconds with those of the items before them."""

    runs: list[Run]
    seconds: float


def in_order(ids: Sequence[str], steps: Mapping[str, Step], at_start: Times) -> Cut | None:
    """The best cut in the order of `ids`; devices may stay unused."""
    least = at_start
    taken = []
    for device_id in ids:
        times, starts = steps[device_id](least)
        better = [start if t < u else -1 for start, t, u in zip(starts, times, least, strict=True)]
        taken.append((device_id, better))
        least = list(map(min, times, least))
    if least[-1] == inf:
        return None
    runs, end = [], len(least) - 1
    for device_id, starts in reversed(taken):
        if starts[end] >= 0:
            runs.append(Run(device_id, starts[end], end))
            end = starts[end]
    return Cut(runs[::-1], least[-1])


def in_any_order(
    classes: Sequence[Sequence[str]], steps: Mapping[str, Step], at_start: Times, rest: Times, best: float
) -> Cut | None:
    """Like `in_order`, over all orders of all subsets; None if no cut takes less than `best` seconds.

    Devices of one class are interchangeable. `rest[i]` is a lower bound of the time of the items from i on.
    """
    nothing: Used = (0,) * len(classes)
    least = {nothing: at_start}
    last: dict[Used, list[tuple[float, int, int]]] = {}  # time, class and start, by item
    finished = None
    for used in sorted(itertools.product(*(range(len(alike) + 1) for alike in classes)), key=sum):
        ways = []
        for index, alike in enumerate(classes):
            before = least.get(without(used, index)) if used[index] else None
            if before is not None:
                times, starts = steps[alike[used[index] - 1]](before)
                ways.append([(time, index, start) for time, start in zip(times, starts, strict=True)])
        if not ways:
            continue
        last[used] = [min(options) for options in zip(*ways, strict=True)]
        if last[used][-1][0] < best:
            best, finished = last[used][-1][0], used
        times = [way[0] if way[0] + more < best else inf for way, more in zip(last[used], rest, strict=True)]
        if min(times) < inf:
            least[used] = times
    if finished is None:
        return None
    runs, used, end = [], finished, len(at_start) - 1
    while used != nothing:
        _, index, start = last[used][end]
        runs.append(Run(classes[index][used[index] - 1], start, end))
        used, end = without(used, index), start
    return Cut(runs[::-1], best)


def without(used: Used, index: int) -> Used:
    """`used` with one device less of the class `index`."""
    return (*used[:index], used[index] - 1, *used[index + 1 :])
