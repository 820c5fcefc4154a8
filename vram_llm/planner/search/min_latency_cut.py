"""The fastest cut of whole layers in which no device exceeds its budget.

The time of a step is the sum over its runs, and dynamic programming finds the best cut (order_search.py). If
the slowest run decides, times are combined by their maximum in place of their sum.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from math import inf
from typing import NamedTuple

from vram_llm.planner.run_costs import RunCosts
from vram_llm.planner.search.min_memory_cut import LayerCuts, LayerRange
from vram_llm.planner.search.order_search import Cut, Step, Times, in_any_order, in_order
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import Objective

_WORTH_REORDERING = 0.99  # another order must take less than this share of the time of the machine's order
_WORTH_BALANCING = 1.01  # the slowest stage may be slower by this factor if decode steps become shorter


class _Runs(NamedTuple):
    """Possible runs of one device: their costs, and `ends` as in `_ends`."""

    costs: RunCosts
    ends: list[int]


Combine = Callable[[Times, _Runs], tuple[Times, list[int]]]


def fastest(
    layer_cuts: LayerCuts, predictor: Predictor, n_host: int, objective: Objective
) -> list[LayerRange] | None:
    """The runs of all items but the first `n_host`; None if nothing fits.

    LATENCY: the runs with the shortest decode step of the expected streams. THROUGHPUT: those whose slowest
    stage of a prompt's micro-batch is the shortest; of nearly equal cuts, the one with the shortest decode
    step. If stages do not overlap, those with the least sum of stages.
    """
    if n_host == layer_cuts.n_items:
        return []
    rows = predictor.objective_streams
    decode = {device_id: predictor.objective_costs(device_id, rows) for device_id in layer_cuts.ids}
    ends: dict[str, list[int]] = {}
    for alike in layer_cuts.classes:
        ends |= dict.fromkeys(alike, _ends(layer_cuts, alike[0], n_host))
    runs = {device_id: _Runs(decode[device_id], ends[device_id]) for device_id in layer_cuts.ids}
    if not runs:
        return None
    if objective is Objective.THROUGHPUT:
        stages = {
            device_id: _Runs(predictor.full_stage_costs(device_id), ends[device_id])
            for device_id in layer_cuts.ids
        }
        runs = _balanced(layer_cuts, stages, runs, n_host)
    cuts = [cut for cut in (_best(layer_cuts, runs, n_host, _sum),) if cut is not None]
    if objective is Objective.LATENCY or not cuts:
        cuts += _alone(layer_cuts, decode, n_host)
    return min(cuts, key=lambda cut: cut.seconds).runs if cuts else None


def _balanced(
    layer_cuts: LayerCuts, stages: dict[str, _Runs], steps: dict[str, _Runs], n_host: int
) -> dict[str, _Runs]:
    """`steps` without the runs with too slow a stage; `stages` if stages never overlap."""
    if n_host or not layer_cuts.meter.may_pipeline:
        return stages
    slowest = _best(layer_cuts, stages, n_host, _largest)
    if slowest is None:
        return steps
    limit_s = slowest.seconds * _WORTH_BALANCING
    return {
        device_id: _Runs(runs.costs, _within(stages[device_id], limit_s)) for device_id, runs in steps.items()
    }


def _ends(layer_cuts: LayerCuts, device_id: str, n_host: int) -> list[int]:
    """`ends[i]`: exclusive end of the longest run from item i that fits the device's budget.

    Other devices are in use, so pipeline copies count.
    """
    ends = list(range(layer_cuts.n_items + 1))
    end = n_host  # a run that starts later never ends earlier, except that the first run has the inputs too
    for start in range(n_host + 1, layer_cuts.n_items):
        end = max(end, start)
        while end < layer_cuts.n_items and layer_cuts.holds(device_id, start, end + 1, n_host):
            end += 1
        ends[start] = end
    if n_host < layer_cuts.n_items:
        ends[n_host] = layer_cuts.furthest(device_id, n_host, n_host, 1.0)
    return ends


def _within(runs: _Runs, seconds: float) -> list[int]:
    """The ends of the runs that take at most `seconds`."""
    fixed, sums = runs.costs.fixed, runs.costs.sums
    return [min(end, bisect_right(sums, seconds - fixed + sums[i]) - 1) for i, end in enumerate(runs.ends)]


def _best(layer_cuts: LayerCuts, runs: Mapping[str, _Runs], n_host: int, combine: Combine) -> Cut | None:
    """The best cut in the machine's order, or in another order that is noticeably faster."""
    start = [0.0 if item == n_host else inf for item in range(layer_cuts.n_items + 1)]
    steps = {device_id: _step(combine, runs[device_id]) for device_id in layer_cuts.ids}
    best = in_order(layer_cuts.ids, steps, start)
    if layer_cuts.reorders:
        least = best.seconds * _WORTH_REORDERING if best is not None else inf
        rest = _rest(layer_cuts, runs) if combine is _sum else [0.0] * (layer_cuts.n_items + 1)
        best = in_any_order(layer_cuts.classes, steps, start, rest, least) or best
    return best


def _step(combine: Combine, runs: _Runs) -> Step:
    return lambda before: combine(before, runs)


def _alone(layer_cuts: LayerCuts, decode: dict[str, RunCosts], n_host: int) -> list[Cut]:
    """A cut for each device that can hold all items alone, which needs no pipeline copies."""
    cuts = []
    for device_id in layer_cuts.ids:
        if layer_cuts.holds_all(device_id, n_host):
            seconds = decode[device_id].run(n_host, layer_cuts.n_items)
            cuts.append(Cut([LayerRange(device_id, n_host, layer_cuts.n_items)], seconds))
    return cuts


def _sum(before: Times, runs: _Runs) -> tuple[Times, list[int]]:
    """The least time up to each item with one more run, and the first item of that run."""
    fixed, sums, ends = runs.costs.fixed, runs.costs.sums, runs.ends
    times, starts = [inf] * len(before), [0] * len(before)
    queue: list[tuple[float, int]] = []  # a heap of (seconds, start)
    for end in range(1, len(before)):
        if before[end - 1] < inf:
            heappush(queue, (before[end - 1] - sums[end - 1], end - 1))
        while queue and ends[queue[0][1]] < end:
            heappop(queue)
        if queue:
            least, starts[end] = queue[0]
            times[end] = fixed + sums[end] + least
    return times, starts


def _largest(before: Times, runs: _Runs) -> tuple[Times, list[int]]:
    """`_sum` with the time of the longest run in place of the sum."""
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


def _rest(layer_cuts: LayerCuts, runs: Mapping[str, _Runs]) -> Times:
    """rest[i]: a lower bound of the seconds of the items from i on, with each item on its fastest device."""
    sums = [runs[device_id].costs.sums for device_id in layer_cuts.ids]
    rest = [0.0]
    for item in range(layer_cuts.n_items - 1, -1, -1):
        rest.append(rest[-1] + min(seconds[item + 1] - seconds[item] for seconds in sums))
    return rest[::-1]
