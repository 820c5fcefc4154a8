"""Devices without layers in a plan, and the cost of using them."""

from dataclasses import replace

from vram_llm.machine.assumed_speed import has_assumed_speed
from vram_llm.machine.links import described_link
from vram_llm.machine.types import Device, DeviceKind, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.llama_split import placement_flags
from vram_llm.planner.report.idle import kind_of, price_of_using, with_name
from vram_llm.planner.search.alternatives import alternative_to, pinned_context, pinned_prompts
from vram_llm.planner.search.candidate import Candidate, analytic, uses_host
from vram_llm.planner.search.search import plan_placement, plan_with_all
from vram_llm.planner.speed_notes import assumption, how_to_measure
from vram_llm.planner.types import Alternative, Objective, Placement, Plan, Workload

_MAX_ALTERNATIVES = 8
_NOTABLE_SHARE = 0.1  # of a token's time


def idle_device_alternatives(
    profile: ModelProfile, machine: Machine, workload: Workload, chosen: Candidate
) -> tuple[Alternative, ...]:
    """An alternative for each kind of idle device: the device comes last, and memory is spread evenly.

    If weights are on the host, the device takes as many of them as fit. Empty if the user gives the split, or
    if the objective ignores speed.
    """
    ignores_speed = workload.objective not in (Objective.LATENCY, Objective.THROUGHPUT)
    if workload.tensor_split is not None or ignores_speed:
        return ()
    context = chosen.context
    balanced = replace(workload, n_ctx=context.n_ctx, largest_ctx=False, objective=Objective.BALANCE)
    if context.op_offload:
        balanced = replace(balanced, op_offload=True, n_ubatch=context.n_ubatch)
    pinned = (*pinned_context(workload, chosen), *pinned_prompts(workload, chosen))
    chosen_estimate = analytic(profile, machine, balanced, chosen.context)(chosen.placement)
    by_id = {device.id: device for device in machine.devices}
    alternatives: list[Alternative] = []
    for kind in _kinds(idle_devices(machine.devices, chosen.placement))[:_MAX_ALTERNATIVES]:
        device = kind[0]
        devices = (*(by_id[device_id] for device_id in chosen.placement.device_order), device)
        with_device = replace(machine, devices=devices)
        candidate = plan_placement(profile, with_device, balanced, reorder=False)
        if uses_host(profile, chosen.placement) and workload.n_gpu_layers is None:
            fastest = replace(balanced, objective=workload.objective)
            filled = plan_with_all(profile, with_device, fastest, fills_devices=True)
            candidate = filled if device.id in filled.placement.device_order else candidate
        is_used = device.id in candidate.placement.device_order
        flags = (*pinned, *placement_flags(candidate.placement)) if is_used else ()
        alternatives.append(alternative_to(with_name(device), flags, candidate, chosen_estimate))
    return tuple(alternatives)


def idle_without_companions(profile: ModelProfile, machine: Machine, workload: Workload) -> frozenset[str]:
    """The ids of the devices of known speed without layers, if the model has no companions."""
    if len(machine.devices) < 2:
        return frozenset()
    placement = plan_placement(profile, machine, workload).placement
    unused = idle_devices(machine.devices, placement)
    return frozenset(device.id for device in unused if not has_assumed_speed(device))


def idle_notes(plan: Plan) -> tuple[str, ...]:
    """A sentence for each kind of idle device of assumed speed: the assumption, and how to measure it."""
    unused = [
        device
        for device in idle_devices(plan.devices, plan.placement)
        if has_assumed_speed(device) and device.id not in plan.used
    ]
    return tuple(
        f"the speed of {kind[0].name} ({', '.join(device.id for device in kind)}), which is idle, is assumed "
        f"({assumption(kind[0])}); {how_to_measure(kind)}"
        for kind in _kinds(unused)
    )


def link_notes(plan: Plan) -> tuple[str, ...]:
    """A sentence for each worker whose measured link takes much of a token's time, or leaves it idle."""
    if plan.speed is None:
        return ()
    notes, now_s = [], plan.speed.step_s
    for device in plan.devices:
        link = device.link if device.kind is DeviceKind.RPC else None
        if link is None or link.latency_s.source is not Source.MEASURED:
            continue
        waits_s, name = 2 * link.latency_s.value, f"{device.name} ({device.id})"
        price = price_of_using(plan, device) or 0.0
        is_used = device.id in plan.placement.device_order and plan.speed.sums is None
        if is_used and waits_s > _NOTABLE_SHARE * now_s:
            notes.append(
                f"each token waits {1e3 * waits_s:,.3g} of {1e3 * now_s:,.3g} ms for the link of {name}: "
                f"{described_link(link)}, measured"
            )
        elif device.id not in plan.used and price > 0 and waits_s >= now_s * price / 2:
            notes.append(
                f"{name} is left out, for its link is slow: {described_link(link)}, measured; with it a "
                f"token would take {1 + price:,.3g} times as long"
            )
    return tuple(notes)


def idle_devices(devices: tuple[Device, ...], placement: Placement) -> list[Device]:
    """The devices without layers."""
    return [device for device in devices if device.id not in placement.device_order]


def _kinds(devices: list[Device]) -> list[list[Device]]:
    """The devices grouped by kind."""
    by_kind: dict[tuple[object, ...], list[Device]] = {}
    for device in devices:
        by_kind.setdefault(kind_of(device), []).append(device)
    return list(by_kind.values())
