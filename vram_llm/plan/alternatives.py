"""The plans beside the plan: what one change would buy or cost, and what llama.cpp would do by itself."""

from collections.abc import Iterator
from dataclasses import replace

from vram_llm.errors import BadPlan
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.plan.context import CTX_STEP, resolve_context
from vram_llm.plan.layout import device_of_layers, placement_of
from vram_llm.plan.search import Candidate, analytic, place
from vram_llm.plan.types import Alternative, Estimate, MeterFor, Placement, Workload
from vram_llm.units import format_count

MORE_CTX = 8192


def split_by_free_memory(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    exact: MeterFor | None = None,
) -> Alternative | None:
    """What llama.cpp does when told nothing: shares by free memory, nothing on the host."""
    if not any(device.free_bytes for device in machine.devices):
        return None
    shares = [float(device.free_bytes) for device in machine.devices]
    assignment = device_of_layers(profile.n_layers, -1, shares)
    placement = placement_of([device.id for device in machine.devices], assignment)
    meter = analytic(profile, machine, workload, chosen.context)
    if exact is not None:
        estimate, now = exact(chosen.context)(placement), chosen.estimate
    else:
        estimate, now = meter(placement), meter(chosen.placement)
    return _alternative("by free memory", Candidate(chosen.context, placement, estimate), now)


def alternatives(
    profile: ModelProfile, machine: Machine, workload: Workload, chosen: Candidate
) -> tuple[Alternative, ...]:
    """The usual single changes to `chosen`, each placed anew over the devices in its order."""
    wish = replace(workload, n_ctx=chosen.context.n_ctx, largest_ctx=False)
    ordered = _in_order(machine, chosen.placement) if wish.tensor_split is None else machine
    now = analytic(profile, machine, wish, chosen.context)(chosen.placement)
    found = []
    for name, rig, changed in _changes(profile, ordered, wish, chosen):
        try:
            other = place(profile, rig, changed, reorder=False)
        except BadPlan:  # heads that the smaller KV type's blocks do not divide
            continue
        found.append(_alternative(name, other, now))
    return tuple(found)


def _alternative(name: str, other: Candidate, now: Estimate) -> Alternative:
    """`other` beside what the chosen plan holds by the same meter."""
    before = {use.id: use.total_bytes for use in now.devices}
    after = {use.id: use.total_bytes for use in other.estimate.devices}
    return Alternative(
        name=name,
        context=other.context,
        placement=other.placement,
        estimate=other.estimate,
        fits=other.estimate.fits,
        change_bytes={each: after.get(each, 0) - before.get(each, 0) for each in {**before, **after}},
    )


def ways_out(profile: ModelProfile, machine: Machine, workload: Workload) -> Iterator[tuple[str, Candidate]]:
    """What would fit in place of a wish that does not, each under the flag that asks for it."""
    free = replace(workload, tensor_split=None, n_gpu_layers=None)
    if free != workload and (other := place(profile, machine, free)).estimate.fits:
        yield "placement", other
    low, high = 0, resolve_context(profile, machine, workload).n_ctx // CTX_STEP - 1
    fitting = None
    while low < high:
        middle = (low + high + 1) // 2
        other = place(profile, machine, replace(workload, n_ctx=middle * CTX_STEP))
        if other.estimate.fits:
            low, fitting = middle, other
        else:
            high = middle - 1
    if fitting is not None:
        yield "context", fitting
    if workload.kv_type_k == "f16" and not (profile.head_k % 32 or profile.head_v % 32):
        other = place(profile, machine, replace(workload, kv_type_k="q8_0", kv_type_v="q8_0"))
        if other.estimate.fits:
            yield "kv", other


def _changes(
    profile: ModelProfile, machine: Machine, wish: Workload, chosen: Candidate
) -> Iterator[tuple[str, Machine, Workload]]:
    context = chosen.context
    if (context.kv_type_k, context.kv_type_v) == ("f16", "f16") and profile.kv_bytes_per_token:
        yield "KV cache as q8_0", machine, replace(wish, kv_type_k="q8_0", kv_type_v="q8_0")
    if analytic(profile, machine, wish, context).is_pipelined(chosen.placement):
        yield "no pipeline copies", machine, replace(wish, pipeline_copies=False)
    if context.n_ubatch > 64:
        half = context.n_ubatch // 2
        yield f"micro-batches of {half}", machine, replace(wish, n_ubatch=half)
    yield f"{format_count(MORE_CTX)} more context", machine, replace(wish, n_ctx=context.n_ctx + MORE_CTX)
    if len(chosen.placement.device_order) > 1 and wish.tensor_split is None:
        used = [device for device in machine.devices if device.id in chosen.placement.device_order]
        spared = min(used, key=lambda device: device.free_bytes)
        rest = tuple(device for device in machine.devices if device.id != spared.id)
        yield f"without {spared.id}", replace(machine, devices=rest), wish


def _in_order(machine: Machine, placement: Placement) -> Machine:
    """The machine with the devices a placement uses first, in its order."""
    rank = {device_id: i for i, device_id in enumerate(placement.device_order)}
    devices = sorted(machine.devices, key=lambda device: rank.get(device.id, len(rank)))
    return replace(machine, devices=tuple(devices))
