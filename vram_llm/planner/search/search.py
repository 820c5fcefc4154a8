"""Finds the best placement for a model, a machine and a workload.

If all layers fit the devices as a whole, that is the placement (whole_layers.py). Otherwise routed experts or
feed-forward matrices of some layers are on the host or on another device, and whole layers are on the host
only if that is faster (spill.py). Devices that may be slower than the host are used if that takes less time
(slow_devices.py). The analytic meter finds the placement. An exact meter, if given, confirms it.
"""

from dataclasses import replace
from math import inf

from vram_llm.machine.assumed_speed import has_assumed_speed
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.llama_split import device_of_layers, placement_of
from vram_llm.planner.memory.analytic_meter import AnalyticMeter, is_pipelined, without_pipeline_copies
from vram_llm.planner.search.candidate import (
    Candidate,
    analytic,
    objective_seconds,
    request_seconds,
    uses_host,
)
from vram_llm.planner.search.min_memory_cut import LayerCuts, LayerRange
from vram_llm.planner.search.slow_devices import machines_to_try
from vram_llm.planner.search.spill import SpilledPlacement, SpillSearch
from vram_llm.planner.search.whole_layers import WholeLayerSearch
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import Context, MeterFor, Objective, Placement, Workload

_WORTH_ASSUMING = 0.99  # devices of assumed speed are used if that takes less than this share of the time
_WORTH_MOVING = 0.99  # parts of layers move although all layers fit if a step takes less than this share


def plan_placement(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    exact: MeterFor | None = None,
    *,
    reorder: bool = True,
) -> Candidate:
    """The best placement; with `reorder`, over all orders of the devices.

    If none fits, it is the placement that is least over its budgets. Raises BadSplit, BadPlan.
    """
    best: Candidate | None = None
    for rig, all_others_assumed in machines_to_try(profile, machine, workload):
        candidate = plan_with_all(profile, rig, workload, exact, reorder=reorder)
        if best is None or _is_better(profile, machine, workload, candidate, best):
            best = candidate
        all_on_devices = workload.n_gpu_layers is not None or not uses_host(profile, best.placement)
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
    candidate_s, best_s = (objective_seconds(profile, machine, workload, each) for each in (candidate, best))
    used = [device for device in machine.devices if device.id in candidate.placement.device_order]
    return candidate_s < best_s * (_WORTH_ASSUMING if any(map(has_assumed_speed, used)) else 1.0)


def plan_with_all(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    exact: MeterFor | None = None,
    *,
    reorder: bool = True,
    fills_devices: bool = False,
) -> Candidate:
    """`plan_placement` with all devices of the machine, slow ones too.

    With `fills_devices`, as few bytes as possible are on the host, whatever time that takes.
    """
    context = resolve_context(profile, machine, workload)
    search = _PlacementSearch(
        profile, machine, workload, analytic(profile, machine, workload, context), reorder=reorder
    )
    return search.best(exact, fills_devices=fills_devices)


def choose_placement(
    profile: ModelProfile, machine: Machine, workload: Workload, meter: AnalyticMeter
) -> Placement:
    """The placement that the user gives, or the best one by an analytic meter.

    If none fits, it is the placement that is least over its budgets. Raises BadSplit.
    """
    return _PlacementSearch(profile, machine, workload, meter).best(None).placement


def plan_fewest_on_host(
    profile: ModelProfile, machine: Machine, workload: Workload, context: Context
) -> Candidate:
    """The placement that fits the devices with the fewest bytes on the host, by the analytic meter.

    The host's memory does not limit it.
    """
    roomy = replace(machine, host=replace(machine.host, available_bytes=2**60))
    meter = analytic(profile, roomy, workload, context)
    found = _PlacementSearch(profile, roomy, workload, meter).best(None, fills_devices=True)
    measure = analytic(profile, machine, workload, context)
    return Candidate(found.context, found.placement, measure(found.placement))


class _PlacementSearch:
    """Finds the best placement of one model in one context on one machine."""

    def __init__(
        self,
        profile: ModelProfile,
        machine: Machine,
        workload: Workload,
        meter: AnalyticMeter,
        *,
        reorder: bool = True,
    ) -> None:
        self._profile, self._machine, self._workload = profile, machine, workload
        self._meter, self._context = meter, meter.context
        predictor = Predictor(profile, meter.context, machine, workload)
        self._whole = WholeLayerSearch(
            machine, meter, predictor, workload.objective, profile.n_layers, reorder=reorder
        )
        apart = without_pipeline_copies(meter)
        self._layer_cuts = LayerCuts(apart, profile.n_layers, reorder=reorder)
        self._predictor = Predictor(profile, meter.context, machine, _at_depth(profile, meter, workload))
        self._spill = SpillSearch(profile, workload, apart, self._predictor, self._layer_cuts)

    def best(self, exact: MeterFor | None, *, fills_devices: bool = False) -> Candidate:
        """The best placement; if none fits, the one that is least over its budgets."""
        if self._workload.tensor_split is not None:
            return self._with_split(exact)
        n_layers, wanted = self._profile.n_layers, self._workload.n_gpu_layers
        n_host = None if wanted is None else max(n_layers + 1 - wanted, 0) if wanted >= 0 else 0
        measure = None if exact is None else exact(self._context)
        whole = None
        if not self._workload.overrides:
            whole = self._whole.on_devices(n_host or 0, measure)
        best = self._spilled(n_host, exact, whole, fills_devices=fills_devices) or whole
        if best is not None and (best.estimate.fits or self._workload.overrides):
            return best
        if self._workload.overrides:
            return self._measured(self._layer_cuts.min_memory_placement(n_host or 0), exact)
        last = (
            self._whole.fewest_on_host(measure) if n_host is None else self._whole.least_bad(n_host, measure)
        )
        return last if best is None or last.estimate.short_bytes < best.estimate.short_bytes else best

    def _spilled(
        self, n_host: int | None, exact: MeterFor | None, whole: Candidate | None, *, fills_devices: bool
    ) -> Candidate | None:
        """The best placement with moved parts; None if none is better than `whole`."""
        ids, objective = self._layer_cuts.ids, self._workload.objective
        if self._workload.overrides == () or not ids:
            return None
        if whole is not None and (objective is not Objective.LATENCY or len(ids) < 2):
            return None
        if objective in (Objective.BALANCE, Objective.CONTEXT):
            if not self._spill.has_parts and not self._workload.overrides:
                return None
            fills_devices = True
        most_s = inf if whole is None else self._latency_s(whole) * _WORTH_MOVING
        found = self._spill.best(n_host, fills_devices=fills_devices, most_s=most_s)
        if found is None or not self._is_worth(found, whole):
            return None
        context = replace(self._context, pipeline_copies=False)
        if exact is not None:
            found = self._spill.confirmed(found, n_host, exact(context))
            if not self._is_worth(found, whole):
                return None
        if is_pipelined(self._profile, self._context, self._machine.devices, found.placement):
            return Candidate(context, found.placement, found.estimate)
        return Candidate(self._context, found.placement, found.estimate)

    def _is_worth(self, found: SpilledPlacement, whole: Candidate | None) -> bool:
        """Whether a decode step is noticeably faster than with `whole`.

        If `whole` has pipeline copies, which moved parts turn off, a typical request must be faster too.
        """
        if whole is None:
            return True
        if not found.estimate.fits or found.seconds >= self._latency_s(whole) * _WORTH_MOVING:
            return False
        if not is_pipelined(self._profile, self._context, self._machine.devices, whole.placement):
            return True
        request_s = request_seconds(self._predictor, found.placement, pipelined=False)
        return request_s < request_seconds(self._predictor, whole.placement, pipelined=True)

    def _latency_s(self, found: Candidate) -> float:
        return self._predictor.objective_seconds(found.placement, Objective.LATENCY, pipelined=False)

    def _with_split(self, exact: MeterFor | None) -> Candidate:
        """The split that the user gives, with moved parts if it does not fit and parts may move."""
        workload, n_layers = self._workload, self._profile.n_layers
        assert workload.tensor_split is not None
        order, shares = workload.tensor_split.over(self._layer_cuts.ids)
        wanted = -1 if workload.n_gpu_layers is None else workload.n_gpu_layers
        assignment = device_of_layers(n_layers, wanted, shares)
        whole = self._measured(placement_of(order, assignment, workload.overrides or ()), exact)
        if whole.estimate.fits or workload.overrides is not None:
            return whole
        runs = [
            LayerRange(order[index], assignment.index(index), n_layers + 1 - assignment[::-1].index(index))
            for index in dict.fromkeys(assignment)
            if index >= 0
        ]
        found = self._spill.best(None, runs=runs)
        if found is not None and exact is not None:
            found = self._spill.confirmed(found, None, exact(self._context), runs=runs)
        if found is None or not found.estimate.fits:
            return whole
        return Candidate(self._context, found.placement, found.estimate)

    def _measured(self, placement: Placement, exact: MeterFor | None) -> Candidate:
        measure = self._meter if exact is None else exact(self._context)
        overrides = self._workload.overrides or ()
        placement = replace(placement, overrides=overrides) if overrides else placement
        return Candidate(self._context, placement, measure(placement))


def _at_depth(profile: ModelProfile, meter: AnalyticMeter, workload: Workload) -> Workload:
    """`workload` with the context depth at which times decide which weights leave a device.

    For a dense model it is a full context, unless the user gives a depth: at a small depth a step reads
    little of the cache, so whole layers on the host would seem cheap. With experts, a token reads so few
    weights that the depth hardly matters.
    """
    if workload.expect_depth is not None or any(layer.expert_bytes for layer in profile.layers):
        return workload
    return replace(workload, expect_depth=meter.context.n_ctx_seq)
