"""From a model, a machine and a wish to the placement that fits.

As few layers as possible stay on the host; of the cuts (cut.py) that leaves, the one whose fullest device is
least full is taken.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from vram_llm.errors import BadPlan, BadSplit, DoesNotFit
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES
from vram_llm.plan import explain
from vram_llm.plan.cut import Cutter
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
    cutter = Cutter(meter, n_layers)
    if wanted is not None:
        return cutter.cut(max(n_layers + 1 - wanted, 0) if wanted >= 0 else 0)
    best = cutter.cut(_fewest_on_host(cutter, n_layers))
    return best if meter(best).fits or not ids else cutter.cut(0)


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
