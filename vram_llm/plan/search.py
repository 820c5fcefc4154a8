"""From a model, a machine and a wish to the placement that fits.

Layers and, as one more item after them, the output are cut into contiguous runs, one for each device in
the machine's order. As few layers as possible stay on the host; among the cuts that leaves, the one whose
fullest device is least full is taken. Both questions have exact answers by bisection over a greedy fill,
since what a device holds only grows with every item it gets.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from vram_llm.errors import BadPlan, BadSplit, DoesNotFit
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES
from vram_llm.plan import explain
from vram_llm.plan.layout import device_of_layers, placement_of
from vram_llm.plan.memory import AnalyticMeter, pad
from vram_llm.plan.types import (
    PLAN_VERSION,
    Alternative,
    Context,
    Placement,
    Plan,
    PlannedDevice,
    PlannedModel,
    Workload,
)

_MIN_CTX = 256  # llama.cpp pads n_ctx to a multiple of it
_BISECTIONS = 24


def make_plan(profile: ModelProfile, machine: Machine, workload: Workload) -> Plan:
    """The plan for running `profile` on `machine` as `workload` asks.

    Raises DoesNotFit with what would fit, BadSplit and BadPlan where the wish contradicts model or machine.
    """
    context = resolve_context(profile, machine, workload)
    meter = AnalyticMeter(profile, context, machine.devices, machine.host, workload.reserve_bytes)
    placement = choose_placement(profile, machine, workload, meter)
    estimate = meter(placement)
    if not estimate.fits:
        raise DoesNotFit(
            explain.refusal(profile, machine, estimate, context, _ways_out(profile, machine, workload))
        )
    return Plan(
        version=PLAN_VERSION,
        model=PlannedModel(
            path=str(profile.shards[0].path),
            name=profile.name,
            architecture=profile.architecture,
            quantization=profile.quantization,
            n_layers=profile.n_layers,
            total_bytes=profile.total_bytes,
        ),
        devices=tuple(
            PlannedDevice(
                **{name: getattr(device, name) for name in device.__dataclass_fields__},
                reserve_bytes=workload.reserve_bytes,
            )
            for device in machine.devices
        ),
        context=context,
        placement=placement,
        estimate=estimate,
        fits=True,
        by_free_memory=split_by_free_memory(profile, machine, meter),
        notes=explain.notes(profile, machine, context, placement),
    )


def resolve_context(profile: ModelProfile, machine: Machine, workload: Workload) -> Context:
    """Every open choice of the context made, with llama.cpp's own rounding. Raises BadPlan."""
    trained = profile.context_length or Workload.DEFAULT_N_CTX
    wanted = workload.n_ctx or min(Workload.DEFAULT_N_CTX, trained)
    n_ctx = pad(wanted, _MIN_CTX)
    n_batch = min(workload.n_batch, n_ctx)
    for name in (workload.kv_type_k, workload.kv_type_v):
        block = KV_TYPES[name].block
        if odd := next((n for n in (profile.head_k, profile.head_v) if n % block), None):
            raise BadPlan(
                f"KV type {name} stores blocks of {block} and this model has attention heads of {odd}; "
                "use --kv-type f16"
            )
    return Context(
        n_ctx=n_ctx,
        parallel=workload.parallel,
        kv_type_k=workload.kv_type_k,
        kv_type_v=workload.kv_type_v,
        n_batch=n_batch,
        n_ubatch=min(workload.n_ubatch, n_batch),
        n_threads=machine.host.cores,
        use_mmap=workload.use_mmap,
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
    if wanted is not None and wanted >= 0:
        return _cut(meter, ids, n_layers, max(n_layers + 1 - wanted, 0))
    if wanted is not None:
        return _cut(meter, ids, n_layers, 0)
    return _with_fewest_on_host(meter, ids, n_layers)


def split_by_free_memory(profile: ModelProfile, machine: Machine, meter: AnalyticMeter) -> Alternative | None:
    """What llama.cpp does when told nothing: shares by free memory, nothing on the host."""
    if not machine.devices or not any(device.free_bytes for device in machine.devices):
        return None
    shares = [float(device.free_bytes) for device in machine.devices]
    assignment = device_of_layers(profile.n_layers, -1, shares)
    placement = placement_of([device.id for device in machine.devices], assignment)
    return Alternative(name="by free memory", placement=placement, estimate=meter(placement))


def _check_split(split: Sequence[float], machine: Machine) -> None:
    if len(split) != len(machine.devices):
        names = ", ".join(device.name for device in machine.devices) or "none"
        raise BadSplit(
            f"--tensor-split has {len(split)} shares and there are {len(machine.devices)} devices ({names}); "
            "give one share for each, in that order"
        )
    if (odd := next((share for share in split if not 0 <= share < math.inf), None)) is not None:
        raise BadSplit(f"--tensor-split has a share of {odd}; shares are 0 or more")


def _with_fewest_on_host(meter: AnalyticMeter, ids: Sequence[str], n_layers: int) -> Placement:
    """The cut with the fewest items on the host that fits; without one, everything on the devices."""
    low, high = 0, n_layers + 1  # items on the host; with all of them there the devices are never full
    while low < high:
        middle = (low + high) // 2
        if _fill(meter, ids, n_layers, middle, 1.0) or _alone(meter, ids, n_layers, middle):
            high = middle
        else:
            low = middle + 1
    best = _cut(meter, ids, n_layers, low)
    return best if meter(best).fits or not ids else _cut(meter, ids, n_layers, 0)


def _cut(meter: AnalyticMeter, ids: Sequence[str], n_layers: int, n_host: int) -> Placement:
    """The cut of all items after the first `n_host` that leaves the fullest device least full.

    One device takes all where several cannot, for want of room for their pipeline copies.
    """
    if n_host > n_layers or not ids:
        return placement_of(ids, [-1] * (n_layers + 1))
    usable = [device_id for device_id in ids if meter.budget(device_id)]
    if not usable:  # nothing can fit: put it all on the first, and let the meter say by how much
        return placement_of(ids, [-1] * n_host + [0] * (n_layers + 1 - n_host))
    low, high = 0.0, 1.0
    if not _fill(meter, ids, n_layers, n_host, high) and (one := _alone(meter, ids, n_layers, n_host)):
        return placement_of(ids, [-1] * n_host + one)
    while (best := _fill(meter, ids, n_layers, n_host, high)) is None:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = _fill(meter, ids, n_layers, n_host, middle)
        if found is None:
            low = middle
        else:
            high, best = middle, found
    return placement_of(ids, [-1] * n_host + best)


def _fill(
    meter: AnalyticMeter, ids: Sequence[str], n_layers: int, n_host: int, share: float
) -> list[int] | None:
    """The device index of every item after the first `n_host`, each device filled to `share` of its budget.

    None where they do not fit.
    """
    n_items = n_layers + 1
    pipelined = n_host == 0 and meter.may_pipeline
    assignment: list[int] = []
    for index, device_id in enumerate(ids):
        start = n_host + len(assignment)
        low, high = 0, n_items - start
        while low < high:
            count = (low + high + 1) // 2
            end, has_output = min(start + count, n_layers), start + count == n_items
            use = meter.device(
                device_id, start, end, has_output, is_first=start == n_host, pipelined=pipelined
            )
            if use.total_bytes <= share * use.budget_bytes:
                low = count
            else:
                high = count - 1
        assignment += [index] * low
        if start + low == n_items:
            return assignment
    return None


def _alone(meter: AnalyticMeter, ids: Sequence[str], n_layers: int, n_host: int) -> list[int] | None:
    """As `_fill`, with everything on the one device that it leaves least full; None where it fits on none."""
    uses = [meter.device(each, n_host, n_layers, True, is_first=True, pipelined=False) for each in ids]
    shares = {
        index: use.total_bytes / use.budget_bytes for index, use in enumerate(uses) if use.over_bytes <= 0
    }
    if not shares:
        return None
    return [min(shares, key=shares.__getitem__)] * (n_layers + 1 - n_host)


def _ways_out(profile: ModelProfile, machine: Machine, workload: Workload) -> list[str]:
    """What would fit instead, as command-line flags with their meaning."""
    ways = []
    if workload.tensor_split is not None or workload.n_gpu_layers is not None:
        free = replace(workload, tensor_split=None, n_gpu_layers=None)
        if (placement := _fitting(profile, machine, free)) is not None:
            ways.append(explain.way_without_constraints(placement, workload))
    context = resolve_context(profile, machine, workload)
    low, high = 0, context.n_ctx // _MIN_CTX - 1  # in steps; 0 is "not even the least"
    while low < high:
        middle = (low + high + 1) // 2
        if _fitting(profile, machine, replace(workload, n_ctx=middle * _MIN_CTX)) is not None:
            low = middle
        else:
            high = middle - 1
    if low:
        ways.append(explain.way_with_context(low * _MIN_CTX))
    if workload.kv_type_k == "f16" and not (profile.head_k % 32 or profile.head_v % 32):
        small = replace(workload, kv_type_k="q8_0", kv_type_v="q8_0")
        if _fitting(profile, machine, small) is not None:
            ways.append(explain.WAY_WITH_SMALL_KV)
    return ways


def _fitting(profile: ModelProfile, machine: Machine, workload: Workload) -> Placement | None:
    context = resolve_context(profile, machine, workload)
    meter = AnalyticMeter(profile, context, machine.devices, machine.host, workload.reserve_bytes)
    placement = choose_placement(profile, machine, workload, meter)
    return placement if meter(placement).fits else None
