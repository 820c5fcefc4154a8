"""The fastest cut of whole layers in which every device stays within its budget.

The time of a step is the sum over its runs, and the best cut is found by dynamic programming
(order_search.py). If the slowest run decides, times are combined by maximum instead of by sum.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from vram_llm.planner.search.min_memory_cut import Cutter, Run
from vram_llm.planner.search.order_search import Cut, Step, Times, in_any_order, in_order
from vram_llm.planner.speed import Costs, Predictor
from vram_llm.planner.types import Objective

_WORTH_REORDERING = 0.99  # another order must take less than this share of the time of the machine's order
_WORTH_BALANCING = 1.01  # the slowest stage may be slower by this factor if decode steps become shorter


class _Runs(NamedTuple):
    """Possible runs of one device: their costs, and `ends` as in `_ends`."""

    costs: Costs
    ends: list[int]


Combine = Callable[[Times, _Runs], tuple[Times, list[int]]]


def fastest(cutter: Cutter, predictor: Predictor, n_host: int, objective: Objective) -> list[Run] | None:
    """The runs of the items after the first `n_host`; None if nothing fits.

    LATENCY: the shortest decode step of the expected streams. THROUGHPUT: the shortest slowest stage of a
    prompt's micro-batch; among cuts that are about as good, the one with the shortest decode step. If stages
    do not overlap, the least sum of them.
    """
    if n_host == cutter.n_items:
        return []
    rows = predictor.objective_streams
    decode = {device_id: predictor.decode_costs(device_id, rows) for device_id in cutter.ids}
    ends: dict[str, list[int]] = {}
    for alike in cutter.classes:
        ends |= dict.fromkeys(alike, _ends(cutter, alike[0], n_host))
    runs = {device_id: _Runs(decode[device_id], ends[device_id]) for device_id in cutter.ids}
    if not runs:
        return None
    if objective is Objective.THROUGHPUT:
        stages = {
            device_id: _Runs(predictor.full_stage_costs(device_id), ends[device_id])
            for device_id in cutter.ids
        }
        runs = _balanced(cutter, stages, runs, n_host)
    cuts = [cut for cut in (_best(cutter, runs, n_host, _sum),) if cut is not None]
    if objective is Objective.LATENCY or not cuts:
        cuts += _alone(cutter, decode, n_host)
    return min(cuts, key=lambda cut: cut.seconds).runs if cuts else None


def _balanced(
    cutter: Cutter, stages: dict[str, _Runs], steps: dict[str, _Runs], n_host: int
) -> dict[str, _Runs]:
    """`steps` without the runs whose stage is too slow; `stages` if stages never overlap."""
    if n_host or not cutter.meter.may_pipeline:
        return stages
    slowest = _best(cutter, stages, n_host, _largest)
    if slowest is None:
        return steps
    most = slowest.seconds * _WORTH_BALANCING
    return {
        device_id: _Runs(runs.costs, _within(stages[device_id], most)) for device_id, runs in steps.items()
    }


def _ends(cutter: Cutter, device_id: str, n_host: int) -> list[int]:
    """`ends[i]`: exclusive end of the longest run from item i that fits the device's budget.

    Other devices are in use, so pipeline copies count.
    """
    ends = list(range(cutter.n_items + 1))
    end = n_host  # starting later never means ending earlier, but the first run holds the inputs too
    for start in range(n_host + 1, cutter.n_items):
        end = max(end, start)
        while end < cutter.n_items and cutter.holds(device_id, start, end + 1, n_host):
            end += 1
        ends[start] = end
    if n_host < cutter.n_items:
        ends[n_host] = cutter.furthest(device_id, n_host, n_host, 1.0)
    return ends


def _within(runs: _Runs, seconds: float) -> list[int]:
    """The ends of the runs that take at most `seconds`."""
    fixed, sums = runs.costs.fixed, runs.costs.sums
    return [min(end, bisect_right(sums, seconds - fixed + sums[i]) - 1) for i, end in enumerate(runs.ends)]


def _best(cutter: Cutter, runs: Mapping[str, _Runs], n_host: int, combine: Combine) -> Cut | None:
    """The best cut in the machine's order, or in another that is noticeably better."""
    start = [0.0 if item == n_host else inf for item in range(cutter.n_items + 1)]
    steps = {device_id: _step(combine, runs[device_id]) for device_id in cutter.ids}
    best = in_order(cutter.ids, steps, start)
    if cutter.reorders:
        least = best.seconds * _WORTH_REORDERING if best is not None else inf
        rest = _rest(cutter, runs) if combine is _sum else [0.0] * (cutter.n_items + 1)
        best = in_any_order(cutter.classes, steps, start, rest, least) or best
    return best


def _step(combine: Combine, runs: _Runs) -> Step:
    return lambda before: combine(before, runs)


def _alone(cutter: Cutter, decode: dict[str, Costs], n_host: int) -> list[Cut]:
    """The cuts with everything on one device, which needs no pipeline copies, for each device with room."""
    cuts = []
    for device_id in cutter.ids:
        if cutter.holds_all(device_id, n_host):
            seconds = decode[device_id].run(n_host, cutter.n_items)
            cuts.append(Cut([Run(device_id, n_host, cutter.n_items)], seconds))
    return cuts


def _sum(before: Times, runs: _Runs) -> tuple[Times, list[int]]:
    """The least time to reach each item with one more run, and the first item of that run."""
    fixed, sums, ends = runs.costs.fixed, runs.costs.sums, runs.ends
    times, starts = [inf] * len(before), [0] * len(before)
    waiting: list[tuple[float, int]] = []  # the best first
    for end in range(1, len(before)):
        if before[end - 1] < inf:
            heappush(waiting, (before[end - 1] - sums[end - 1], end - 1))
        while waiting and ends[waiting[0][1]] < end:
            heappop(waiting)
        if waiting:
            least, starts[end] = waiting[0]
            times[end] = fixed + sums[end] + least
    return times, starts


def _largest(before: Times, runs: _Runs) -> tuple[Times, list[int]]:
    """Like `_sum`, with the longest run's time instead of the sum."""
    fixed, sums, ends = runs.costs.fixed, runs.costs.sums, runs.ends
    times, starts = [inf] * len(before), [0] * len(before)
    for end in range(1, len(before)):
        for start in range(end - 1, -1, -1):
            seconds = fixed + sums[end] - sums[start]
            if seconds >= times[end]:
                break  # earlier starts take longer
            if ends[start] >= end and max(before[start], seconds) < times[end]:
                times[end], starts[end] = max(before[start], seconds), start
    return times, starts


def _rest(cutter: Cutter, runs: Mapping[str, _Runs]) -> Times:
    """Lower bound of the time of all items from each one on: every item is on its fastest device."""
    sums = [runs[device_id].costs.sums for device_id in cutter.ids]
    rest = [0.0]
    for item in range(cutter.n_items - 1, -1, -1):
        rest.append(rest[-1] + min(seconds[item + 1] - seconds[item] for seconds in sums))
    return rest[::-1]
