"""From a model, a machine and a wish to the placement that fits.

As few layers as possible stay on the host; of the cuts (cut.py) that leaves, the one whose fullest device is
least full is taken. The analytic meter finds it; an exact one, where there is one, confirms it, and is asked
again where the analytic meter's caution would cost layers or a refusal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vram_llm.errors import BadSplit
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.plan.context import CTX_STEP, resolve_context
from vram_llm.plan.cut import Cutter
from vram_llm.plan.layout import device_of_layers, placement_of
from vram_llm.plan.memory import AnalyticMeter
from vram_llm.plan.types import Context, Estimate, Meter, MeterFor, Placement, Workload

_MAX_CTX = 2**24
_TRIES = 4  # placements with fewer layers on the host that the exact meter is asked about


@dataclass(frozen=True, slots=True)
class Candidate:
    """A placement and what it holds."""

    context: Context
    placement: Placement
    estimate: Estimate


def place(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None = None
) -> Candidate:
    """The best placement, or the least bad where none fits. Raises BadSplit, BadPlan."""
    context = resolve_context(profile, machine, workload)
    meter = analytic(profile, machine, workload, context)
    placement = choose_placement(profile, machine, workload, meter)
    if exact is None:
        return Candidate(context, placement, meter(placement))
    measure = exact(context)
    found = Candidate(context, placement, measure(placement))
    if workload.tensor_split is not None:
        return found
    found = _tightened(profile, machine, workload, found, measure)
    n_host = profile.n_layers + 1 - found.placement.n_gpu_layers
    if found.estimate.fits and (n_host == 0 or workload.n_gpu_layers is not None):
        return found
    cutter = Cutter(analytic(profile, machine, workload, context, optimistic=True), profile.n_layers)
    if workload.n_gpu_layers is None:
        least = _fewest_on_host(cutter, profile.n_layers)
        bolder = range(least, min(n_host + (not found.estimate.fits), least + _TRIES))
    else:
        bolder = range(n_host, n_host + 1)
    for on_host in bolder:
        placement = cutter.cut(on_host)
        if (estimate := measure(placement)).fits:
            return Candidate(context, placement, estimate)
    return found


def _tightened(
    profile: ModelProfile, machine: Machine, workload: Workload, found: Candidate, measure: Meter
) -> Candidate:
    """`found`, or a placement made with more in reserve where the exact meter finds it too full."""
    for _ in range(_TRIES):
        over = max((use.over_bytes for use in found.estimate.devices), default=0)
        if over <= 0:
            break
        workload = replace(workload, reserve_bytes=workload.reserve_bytes + over)
        placement = choose_placement(
            profile, machine, workload, analytic(profile, machine, workload, found.context)
        )
        found = Candidate(found.context, placement, measure(placement))
    return found


def place_largest(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None = None
) -> tuple[Candidate, Candidate | None]:
    """The placement with the longest context that fits, and that of one step more, which does not.

    No more layers stay on the host than the shortest context needs there; no context is longer than what the
    model was trained on, and then there is no step more. The shortest context's placement where none fits.
    """
    shortest = place(profile, machine, replace(workload, n_ctx=CTX_STEP), exact)
    kept = replace(workload, n_gpu_layers=shortest.placement.n_gpu_layers)

    def at(steps: int, meter: MeterFor | None) -> Candidate:
        return place(profile, machine, replace(kept, n_ctx=steps * CTX_STEP), meter)

    low, high = 1, max((profile.context_length or _MAX_CTX) // CTX_STEP, 1)
    if not shortest.estimate.fits or at(high, exact).estimate.fits:
        return at(high if shortest.estimate.fits else 1, exact), None
    for meter in (None, exact) if exact is not None else (None,):
        # the analytic meter errs on the safe side, so the exact one has only to look further
        stride, limit = high - low, high
        if meter is not None:
            stride = 1
        while limit - low > 1:
            middle = min(low + stride, limit - 1) if meter is not None else (low + limit) // 2
            if at(middle, meter).estimate.fits:
                low, stride = middle, 2 * stride
            else:
                limit, stride = middle, max(stride // 4, 1)
    return at(low, exact), at(low + 1, exact)


def analytic(
    profile: ModelProfile, machine: Machine, workload: Workload, context: Context, *, optimistic: bool = False
) -> AnalyticMeter:
    """The analytic meter for a wish."""
    return AnalyticMeter(
        profile, context, machine.devices, machine.host, workload.reserve_bytes, optimistic=optimistic
    )


def choose_placement(
    profile: ModelProfile, machine: Machine, workload: Workload, meter: AnalyticMeter
) -> Placement:
    """The placement the user dictates, or the best one; the least bad where none fits. Raises BadSplit."""
    ids = [device.id for device in machine.devices]
    n_layers, wanted = profile.n_layers, workload.n_gpu_layers
    if workload.tensor_split is not None:
        _check_split(workload.tensor_split, machine)
        assignment = device_of_layers(n_layers, -1 if wanted is None else wanted, workload.tensor_split)
        return placement_of(ids, assignment)
    cutter = Cutter(meter, n_layers)
    if wanted is not None:
        return cutter.cut(max(n_layers + 1 - wanted, 0) if wanted >= 0 else 0)
    best = cutter.cut(_fewest_on_host(cutter, n_layers))
    return best if meter(best).fits or not ids else cutter.cut(0)


def _check_split(split: Sequence[float], machine: Machine) -> None:
    if len(split) != len(machine.devices):
        names = ", ".join(device.name for device in machine.devices) or "none"
        raise BadSplit(
            f"--tensor-split has {len(split)} shares and there are {len(machine.devices)} devices ({names}); "
            "give one share for each, in that order"
        )
    if (odd := next((share for share in split if not 0 <= share < math.inf), None)) is not None:
        raise BadSplit(f"--tensor-split has a share of {odd}; shares are 0 or more")


def _fewest_on_host(cutter: Cutter, n_layers: int) -> int:
    """The least number of items that must stay on the host for the rest to fit the devices."""
    low, high = 0, n_layers + 1
    while low < high:
        middle = (low + high) // 2
        if cutter.fits(middle):
            high = middle
        else:
            low = middle + 1
    return low
