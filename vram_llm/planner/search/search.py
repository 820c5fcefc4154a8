"""From a model, a machine and a workload to the placement that fits.

As few layers as possible stay on the host. Among such cuts, the search takes the fastest one
(min_latency_cut.py), or for an objective about memory the one whose fullest device is least full
(min_memory_cut.py). Devices that may be slower than the host are used if that takes less time
(slow_devices.py). The analytic meter finds the placement. An exact meter, if given, confirms it. It is asked
again if the analytic meter's overestimate would move layers to the host or refuse the model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import CTX_STEP, ctx_step, resolve_context
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.llama_split import device_of_layers, placement_of
from vram_llm.planner.memory.analytic_meter import AnalyticMeter, is_pipelined
from vram_llm.planner.search.min_latency_cut import fastest
from vram_llm.planner.search.min_memory_cut import Cutter
from vram_llm.planner.search.slow_devices import rigs_to_try
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import (
    Alternative,
    Context,
    Meter,
    MeterFor,
    Objective,
    Placement,
    Plan,
    SpeedEstimate,
    Workload,
)

_MAX_CTX = 2**24
_WORTH_USING = 0.99  # slow devices are used if the plan takes less than this share of the time without them
_TRIES = 4  # placements with fewer layers on the host that the exact meter measures
_REFINEMENTS = 3  # placements with more layers on the fastest devices that the exact meter measures


@dataclass(frozen=True, slots=True)
class Candidate:
    """A placement and its memory estimate."""

    context: Context
    placement: Placement
    estimate: Estimate


def plan_placement(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    exact: MeterFor | None = None,
    *,
    reorder: bool = True,
) -> Candidate:
    """The best placement; with `reorder`, over every order of the devices.

    If none fits, the placement that is least over its budgets. Raises BadSplit, BadPlan.
    """
    best: Candidate | None = None
    for rig, all_others_assumed in rigs_to_try(machine, workload):
        candidate = plan_with_all(profile, rig, workload, exact, reorder=reorder)
        if best is None or _is_better(profile, machine, workload, candidate, best):
            best = candidate
        all_on_devices = workload.n_gpu_layers is not None or best.placement.n_gpu_layers > profile.n_layers
        if best.estimate.fits and all_on_devices and all_others_assumed:
            break
    assert best is not None  # the whole machine is always tried
    return best


def _is_better(
    profile: ModelProfile, machine: Machine, workload: Workload, candidate: Candidate, best: Candidate
) -> bool:
    """Whether `candidate`, which may use more devices, is better than `best`."""
    if not best.estimate.fits or not candidate.estimate.fits:
        return not best.estimate.fits  # a refusal names the devices of the whole machine
    predictor = Predictor(profile, candidate.context, machine, workload)
    candidate_s, best_s = (
        predictor.objective_seconds(
            option.placement,
            workload.objective,
            pipelined=is_pipelined(profile, option.context, machine.devices, option.placement),
        )
        for option in (candidate, best)
    )
    return candidate_s < best_s * _WORTH_USING


def plan_with_all(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    exact: MeterFor | None = None,
    *,
    reorder: bool = True,
) -> Candidate:
    """Like `plan_placement`, but slow devices too are used before the host."""
    context = resolve_context(profile, machine, workload)
    meter = analytic(profile, machine, workload, context)
    placement = choose_placement(profile, machine, workload, meter, reorder=reorder)
    if exact is None:
        return Candidate(context, placement, meter(placement))
    measure = exact(context)
    candidate = Candidate(context, placement, measure(placement))
    if workload.tensor_split is not None:
        return candidate
    least_bad = candidate
    candidate = _shrink_to_fit(profile, machine, workload, meter, candidate, measure)
    n_host = profile.n_layers + 1 - candidate.placement.n_gpu_layers
    if candidate.estimate.fits and (n_host == 0 or workload.n_gpu_layers is not None):
        return (
            _refill_fast_devices(profile, machine, workload, meter, candidate, measure)
            if reorder
            else candidate
        )
    predictor = Predictor(profile, context, machine, workload)
    cutter = Cutter(meter.optimistic(), profile.n_layers)

    def cut(on_host: int) -> Placement:
        return best_cut(cutter, predictor, on_host, workload.objective)

    if workload.n_gpu_layers is None:
        least = _fewest_on_host(cutter, profile.n_layers)
        most = n_host if candidate.estimate.fits else profile.n_layers + 2
        bolder = range(least, min(most, least + _TRIES))
    else:
        bolder = range(n_host, n_host + 1)
    for on_host in bolder:
        placement = cut(on_host)
        if (estimate := measure(placement)).fits:
            return Candidate(context, placement, estimate)
    if not candidate.estimate.fits and workload.n_gpu_layers is None:
        candidate = _bisect_host_layers(cut, profile.n_layers, candidate, measure)
    return candidate if candidate.estimate.fits else least_bad


def best_cut(cutter: Cutter, predictor: Predictor, n_host: int, objective: Objective) -> Placement:
    """The best cut for `objective`; by memory if nothing fits."""
    if objective in (Objective.LATENCY, Objective.THROUGHPUT):
        runs = fastest(cutter, predictor, n_host, objective)
        if runs is not None:
            return cutter.placement(runs)
    return cutter.cut(n_host)


def _bisect_host_layers(
    cut: Callable[[int], Placement], n_layers: int, candidate: Candidate, measure: Meter
) -> Candidate:
    """The candidate with the fewest layers on the host that fits by the exact meter."""
    low, high = 0, n_layers + 1
    while low < high:
        middle = (low + high) // 2
        placement = cut(middle)
        if (estimate := measure(placement)).fits:
            high, candidate = middle, Candidate(candidate.context, placement, estimate)
        else:
            low = middle + 1
    return candidate


def _shrink_to_fit(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    meter: AnalyticMeter,
    candidate: Candidate,
    measure: Meter,
) -> Candidate:
    """`candidate`, or if it does not fit by the exact meter, a placement with smaller budgets."""
    for _ in range(_TRIES):
        over = max((use.over_bytes for use in candidate.estimate.devices), default=0)
        if over <= 0:
            break
        meter = meter.with_budgets({name: max(budget - over, 0) for name, budget in meter.budgets.items()})
        placement = choose_placement(profile, machine, workload, meter)
        candidate = Candidate(candidate.context, placement, measure(placement))
    return candidate


def _refill_fast_devices(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    meter: AnalyticMeter,
    candidate: Candidate,
    measure: Meter,
) -> Candidate:
    """`candidate`, or one with more layers on fast devices, if the analytic meter overestimated their use."""
    if workload.objective not in (Objective.LATENCY, Objective.THROUGHPUT):
        return candidate
    asked = candidate
    for _ in range(_REFINEMENTS):
        budgets = _relax_budgets(machine, meter, asked)
        placement = choose_placement(profile, machine, workload, meter.with_budgets(budgets))
        if placement == asked.placement:
            break
        asked = Candidate(candidate.context, placement, measure(placement))
        if asked.estimate.fits:
            candidate = asked
    return candidate


def _relax_budgets(machine: Machine, meter: AnalyticMeter, asked: Candidate) -> dict[str, int]:
    """The budgets of `meter` plus its overestimate of `asked`; equal devices get the same increase."""
    bounds = {use.id: use.total_bytes for use in meter(asked.placement).devices}
    caution = {use.id: bounds[use.id] - use.total_bytes for use in asked.estimate.devices}
    kinds = {device.id: (device.name, meter.budgets[device.id], device.speed) for device in machine.devices}
    least: dict[object, int] = {}
    for device_id, n_bytes in caution.items():
        kind = kinds[device_id]
        least[kind] = min(least.get(kind, n_bytes), n_bytes)
    return {
        device_id: max(budget + least.get(kinds[device_id], 0), 0)
        for device_id, budget in meter.budgets.items()
    }


def plan_largest_context(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None = None
) -> tuple[Candidate, Candidate | None]:
    """The placement with the longest context that fits, and the placement one step longer, which does not.

    Layers are not moved to the host to make room for context: the host has as many as the shortest context
    needs, or as the default context needs if the shortest needs any. No context is longer than the trained
    length; at that length the second placement is None. If none fits, the placement that is least over its
    budgets.
    """
    step = ctx_step(workload)
    shortest = plan_placement(profile, machine, replace(workload, n_ctx=step), exact)
    if shortest.placement.cpu_layers:
        usual = plan_placement(profile, machine, replace(workload, n_ctx=None), exact)
        shortest = usual if usual.estimate.fits else shortest
    kept = replace(workload, n_gpu_layers=shortest.placement.n_gpu_layers)

    def at(steps: int, meter: MeterFor | None) -> Candidate:
        return plan_placement(profile, machine, replace(kept, n_ctx=steps * step), meter)

    high = max((profile.context_length or _MAX_CTX) // CTX_STEP, 1)
    if not shortest.estimate.fits:
        return shortest, None
    if (longest := at(high, exact)).estimate.fits:
        return longest, None
    low = last_holding(1, high, lambda steps: at(steps, None).estimate.fits)
    if exact is not None:
        # the analytic result is close: search from there in growing steps
        stride = 1
        while low + stride < high and at(low + stride, exact).estimate.fits:
            low, stride = low + stride, 2 * stride
        least = low if at(low, exact).estimate.fits else 1
        low = last_holding(least, min(low + stride, high), lambda steps: at(steps, exact).estimate.fits)
    return at(low, exact), at(low + 1, exact)


def expected_speed(
    profile: ModelProfile, machine: Machine, workload: Workload, of: Candidate | Alternative | Plan
) -> SpeedEstimate:
    """The predicted speed of a placement."""
    pipelined = is_pipelined(profile, of.context, machine.devices, of.placement)
    return Predictor(profile, of.context, machine, workload)(of.placement, pipelined=pipelined)


def last_holding(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number in [low, high) that fits, given that `low` fits and `high` does not."""
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def analytic(profile: ModelProfile, machine: Machine, workload: Workload, context: Context) -> AnalyticMeter:
    """The analytic meter for a workload."""
    return AnalyticMeter(profile, context, machine.devices, machine.host, workload.reserve_bytes)


def choose_placement(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    meter: AnalyticMeter,
    *,
    reorder: bool = True,
) -> Placement:
    """The placement that the user dictates, or the best one.

    If none fits, the placement that is least over its budgets. Raises BadSplit.
    """
    ids = [device.id for device in machine.devices]
    n_layers, wanted = profile.n_layers, workload.n_gpu_layers
    if workload.tensor_split is not None:
        order, shares = workload.tensor_split.over(ids)
        assignment = device_of_layers(n_layers, -1 if wanted is None else wanted, shares)
        return placement_of(order, assignment, workload.overrides or ())
    cutter = Cutter(meter, n_layers, reorder=reorder)
    predictor = Predictor(profile, meter.context, machine, workload)
    if wanted is not None:
        n_host = max(n_layers + 1 - wanted, 0) if wanted >= 0 else 0
        return best_cut(cutter, predictor, n_host, workload.objective)
    best = best_cut(cutter, predictor, _fewest_on_host(cutter, n_layers), workload.objective)
    return best if meter(best).fits or not ids else cutter.cut(0)


def plan_fewest_on_host(
    profile: ModelProfile, machine: Machine, workload: Workload, context: Context
) -> Candidate:
    """The placement with the fewest layers on the host that fits the devices, whatever the host's memory is.

    By the analytic meter, and by memory alone.
    """
    meter = analytic(profile, machine, workload, context)
    cutter = Cutter(meter, profile.n_layers)
    placement = cutter.cut(_fewest_on_host(cutter, profile.n_layers))
    return Candidate(context, placement, meter(placement))


def _fewest_on_host(cutter: Cutter, n_layers: int) -> int:
    """The least number of items on the host with which the other items fit the devices."""
    if cutter.fits(0):
        return 0
    low, high = 1, n_layers + 1
    while low < high:
        middle = (low + high) // 2
        if cutter.fits(middle):
            high = middle
        else:
            low = middle + 1
    return low
