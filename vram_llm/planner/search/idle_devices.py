"""Devices without layers in a plan, and the cost of using them."""

from dataclasses import replace

from vram_llm.machine.assumed_speed import has_assumed_speed
from vram_llm.machine.types import Device, Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.llama_split import placement_flags
from vram_llm.planner.report.idle import kind_of, with_name
from vram_llm.planner.search.alternatives import pinned_context
from vram_llm.planner.search.candidate import Candidate, analytic, uses_host
from vram_llm.planner.search.search import plan_placement, plan_with_all
from vram_llm.planner.speed_notes import assumption, how_to_measure
from vram_llm.planner.types import Alternative, Objective, Placement, Plan, Workload

_MOST = 8  # alternatives; one device represents all equal devices


def with_idle(
    profile: ModelProfile, machine: Machine, workload: Workload, chosen: Candidate
) -> tuple[Alternative, ...]:
    """An alternative for each kind of idle device: the device comes last, and memory is spread evenly.

    If weights are on the host, the device takes as many of them as fit. Empty if the user dictates the split
    or if the objective ignores speed.
    """
    memory_decides = workload.objective not in (Objective.LATENCY, Objective.THROUGHPUT)
    if workload.tensor_split is not None or memory_decides:
        return ()
    balanced = replace(workload, n_ctx=chosen.context.n_ctx, largest_ctx=False, objective=Objective.BALANCE)
    now = analytic(profile, machine, balanced, chosen.context)(chosen.placement)
    before = {use.id: use.total_bytes for use in now.devices}
    by_id = {device.id: device for device in machine.devices}
    alternatives: list[Alternative] = []
    for kind in _kinds(idle(machine.devices, chosen.placement))[:_MOST]:
        used = (*(by_id[device_id] for device_id in chosen.placement.device_order), kind[0])
        rig = replace(machine, devices=used)
        other = plan_placement(profile, rig, balanced, reorder=False)
        if uses_host(profile, chosen.placement) and workload.n_gpu_layers is None:
            wish = replace(balanced, objective=workload.objective)
            relieved = plan_with_all(profile, rig, wish, fills_devices=True)
            other = relieved if kind[0].id in relieved.placement.device_order else other
        after = {use.id: use.total_bytes for use in other.estimate.devices}
        is_used = kind[0].id in other.placement.device_order
        flags = (*pinned_context(workload, chosen), *placement_flags(other.placement)) if is_used else ()
        alternatives.append(
            Alternative(
                name=with_name(kind[0]),
                flags=flags,
                context=other.context,
                placement=other.placement,
                estimate=other.estimate,
                fits=other.estimate.fits,
                change_bytes={
                    device_id: after.get(device_id, 0) - before.get(device_id, 0)
                    for device_id in {**before, **after}
                },
            )
        )
    return tuple(alternatives)


def left_alone(profile: ModelProfile, machine: Machine, workload: Workload) -> frozenset[str]:
    """Ids of the devices of known speed that have no layers when the model is planned alone."""
    if len(machine.devices) < 2:
        return frozenset()
    placement = plan_placement(profile, machine, workload).placement
    unused = idle(machine.devices, placement)
    return frozenset(device.id for device in unused if not has_assumed_speed(device))


def idle_notes(plan: Plan) -> tuple[str, ...]:
    """A sentence for each kind of idle device of assumed speed: the assumption, and how to measure it."""
    unused = [
        device
        for device in idle(plan.devices, plan.placement)
        if has_assumed_speed(device) and device.id not in plan.used
    ]
    return tuple(
        f"the speed of {kind[0].name} ({', '.join(device.id for device in kind)}), which is idle, is assumed "
        f"({assumption(kind[0])}); {how_to_measure(kind)}"
        for kind in _kinds(unused)
    )


def idle(devices: tuple[Device, ...], placement: Placement) -> list[Device]:
    """Devices without layers."""
    return [device for device in devices if device.id not in placement.device_order]


def _kinds(devices: list[Device]) -> list[list[Device]]:
    """Devices grouped by kind."""
    alike: dict[tuple[object, ...], list[Device]] = {}
    for device in devices:
        alike.setdefault(kind_of(device), []).append(device)
    return list(alike.values())
