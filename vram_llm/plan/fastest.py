"""The cut that takes the least time, of those in which every device stays within its budget.

The time of a run of layers on a device does not depend on what the others do, and a step is the sum of the
runs. So, over all orders of all subsets of the devices, it is enough to know for each set of devices the
least time in which it can take the items up to each one: sets and items are few, and one more device is one
matrix of runs. Where the slowest run is what counts, the largest of two times stands for their sum.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vram_llm.machine.types import Device, Machine, Speed
from vram_llm.plan.cut import Cutter, Run, Used
from vram_llm.plan.speed import Costs, Predictor
from vram_llm.plan.types import Objective, Workload

_WORTH_REORDERING = 0.99  # another order than the machine's is taken only where it takes less than this of it
_WORTH_BALANCING = 1.01  # the slowest stage may be so much slower where that makes decode steps shorter

Times = npt.NDArray[np.float64]
Join = Callable[[Times, Times], Times]


class _Cut(NamedTuple):
    runs: list[Run]
    seconds: float


def lacking(machine: Machine, workload: Workload) -> tuple[Device, ...]:
    """The devices of whose speed the objective needs to know more than is known."""
    if workload.objective not in (Objective.LATENCY, Objective.THROUGHPUT):
        return ()

    def knows(speed: Speed) -> bool:
        rows = workload.expect_streams == 1 or speed.row_flops_per_s is not None
        return rows and (workload.objective is Objective.LATENCY or speed.prompt_flops_per_s is not None)

    return tuple(each for each in machine.devices if each.speed is None or not knows(each.speed))


def fastest(cutter: Cutter, predictor: Predictor, n_host: int, objective: Objective) -> list[Run] | None:
    """The runs of the items after the first `n_host`; None where a speed is unknown, or nothing fits.

    LATENCY: the shortest decode step of the streams expected. THROUGHPUT: the shortest slowest stage of a
    micro-batch of a prompt, and of the cuts about as good, the one with the shortest decode step; where
    stages do not overlap, the least sum of them.
    """
    if n_host == cutter.n_items:
        return []
    rows = predictor.objective_streams
    decode = _known({each: predictor.decode_costs(each, rows) for each in cutter.ids})
    if decode is None:
        return None
    fitting: dict[str, npt.NDArray[np.bool_]] = {}
    for alike in cutter.classes:
        fitting |= dict.fromkeys(alike, _fitting(cutter, alike[0], n_host))
    steps = {each: _matrix(decode[each], fitting[each]) for each in cutter.ids}
    if objective is Objective.THROUGHPUT:
        stages = _known({each: predictor.full_stage_costs(each) for each in cutter.ids})
        if stages is None:
            return None
        steps = _balanced(cutter, {e: _matrix(stages[e], fitting[e]) for e in cutter.ids}, steps, n_host)
    found = [cut for cut in (_best(cutter, steps, n_host, np.add),) if cut is not None]
    if objective is Objective.LATENCY or not found:
        found += _alone(cutter, decode, n_host)
    return min(found, key=lambda cut: cut.seconds).runs if found else None


def _balanced(
    cutter: Cutter, stages: dict[str, Times], steps: dict[str, Times], n_host: int
) -> dict[str, Times]:
    """`steps` without the runs whose stage is slower than it must be; stages that never overlap add up."""
    if n_host or not cutter.meter.may_pipeline:
        return stages
    slowest = _best(cutter, stages, n_host, np.maximum)
    if slowest is None:
        return steps
    most = slowest.seconds * _WORTH_BALANCING
    return {each: np.where(stages[each] <= most, steps[each], np.inf) for each in steps}


def _known(costs: dict[str, Costs | None]) -> dict[str, Costs] | None:
    known = {each: cost for each, cost in costs.items() if cost is not None}
    return known if known and len(known) == len(costs) else None


def _fitting(cutter: Cutter, device_id: str, n_host: int) -> npt.NDArray[np.bool_]:
    """For each first item and each end, whether the run fits the device's budget beside others."""
    n = cutter.n_items + 1
    fits = np.zeros((n, n), dtype=np.bool_)
    end = n_host  # starting later never means ending earlier, but the first run holds the inputs too
    for start in range(n_host + 1, n - 1):
        end = max(end, start)
        while end < cutter.n_items and cutter.holds(device_id, start, end + 1, n_host):
            end += 1
        fits[start, start + 1 : end + 1] = True
    if n_host < cutter.n_items:
        fits[n_host, n_host + 1 : cutter.furthest(device_id, n_host, n_host, 1.0) + 1] = True
    return fits


def _matrix(costs: Costs, fitting: npt.NDArray[np.bool_]) -> Times:
    """Seconds from each first item to each end; infinite where the run does not fit."""
    sums = np.array(costs.sums)
    return np.where(fitting, costs.fixed + sums[None, :] - sums[:, None], np.inf)


def _best(cutter: Cutter, times: dict[str, Times], n_host: int, join: Join) -> _Cut | None:
    """The best cut in the machine's order, or in another that is noticeably better."""
    found = _in_order(cutter, times, n_host, join)
    if cutter.reorders:
        other = _in_any_order(cutter, times, n_host, join)
        if other is not None and (found is None or other.seconds < found.seconds * _WORTH_REORDERING):
            found = other
    return found


def _alone(cutter: Cutter, decode: dict[str, Costs], n_host: int) -> list[_Cut]:
    """Everything on one device, which then needs no pipeline copies, for each that has room."""
    found = []
    for each in cutter.ids:
        use = cutter.meter.device(each, n_host, cutter.n_items - 1, True, n_host=n_host, pipelined=False)
        if use.over_bytes <= 0:
            seconds = decode[each].run(n_host, cutter.n_items)
            found.append(_Cut([Run(each, n_host, cutter.n_items)], seconds))
    return found


def _step(before: Times, run: Times, join: Join) -> tuple[Times, npt.NDArray[np.intp]]:
    """The least times to reach each item with one more run, and where that run starts."""
    joined = join(before[:, None], run)
    starts = joined.argmin(axis=0)
    return joined[starts, np.arange(len(starts))], starts


def _in_order(cutter: Cutter, times: dict[str, Times], n_host: int, join: Join) -> _Cut | None:
    """Each device in the machine's order takes a run or none."""
    least = np.full(cutter.n_items + 1, np.inf)
    least[n_host] = 0.0
    steps = []
    for each in cutter.ids:
        with_it, starts = _step(least, times[each], join)
        takes = with_it < least
        steps.append((each, np.where(takes, starts, -1)))
        least = np.where(takes, with_it, least)
    seconds = float(least[cutter.n_items])
    if seconds == np.inf:
        return None
    runs, end = [], cutter.n_items
    for each, taken in reversed(steps):
        if end > n_host and taken[end] >= 0:
            runs.append(Run(each, int(taken[end]), end))
            end = int(taken[end])
    return _Cut(runs[::-1], seconds)


def _in_any_order(cutter: Cutter, times: dict[str, Times], n_host: int, join: Join) -> _Cut | None:
    """As `_in_order`, over all orders of all subsets; devices that are alike are not told apart."""
    classes = cutter.classes
    nothing: Used = (0,) * len(classes)
    at_start = np.full(cutter.n_items + 1, np.inf)
    at_start[n_host] = 0.0
    least = {nothing: at_start}
    last: dict[Used, tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]] = {}
    for used in sorted(itertools.product(*(range(len(alike) + 1) for alike in classes)), key=sum):
        if used == nothing:
            continue
        ways = [
            (index, *_step(least[_without(used, index)], times[classes[index][used[index] - 1]], join))
            for index in range(len(classes))
            if used[index]
        ]
        reached = np.stack([way[1] for way in ways])
        best = reached.argmin(axis=0)
        items = np.arange(reached.shape[1])
        least[used] = reached[best, items]
        last[used] = (
            np.array([way[0] for way in ways])[best],
            np.stack([way[2] for way in ways])[best, items],
        )
    used = min(least, key=lambda each: float(least[each][cutter.n_items]))
    seconds = float(least[used][cutter.n_items])
    if seconds == np.inf:
        return None
    runs, end = [], cutter.n_items
    while used != nothing:
        index, start = int(last[used][0][end]), int(last[used][1][end])
        runs.append(Run(classes[index][used[index] - 1], start, end))
        used, end = _without(used, index), start
    return _Cut(runs[::-1], seconds)


def _without(used: Used, index: int) -> Used:
    return (*used[:index], used[index] - 1, *used[index + 1 :])
