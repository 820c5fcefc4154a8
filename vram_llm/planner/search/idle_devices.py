"""Devices a plan leaves out, and what using them would cost."""

from dataclasses import replace

from vram_llm.machine.assumed_speed import has_assumed_speed
from vram_llm.machine.types import Device, Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.llama_split import placement_flags
from vram_llm.planner.search.alternatives import pinned_context
from vram_llm.planner.search.search import Candidate, analytic, plan_placement, plan_with_all
from vram_llm.planner.speed_notes import assumption, how_to_measure
from vram_llm.planner.types import Alternative, Objective, Placement, Plan, SpeedEstimate, Workload

_MOST = 8  # alternatives; of devices that are alike one stands for all


def with_idle(
    profile: ModelProfile, machine: Machine, workload: Workload, chosen: Candidate
) -> tuple[Alternative, ...]:
    """`chosen` with each kind of device that it leaves out behind the others, memory spread evenly over all.

    Where layers are on the host, the device takes as many of them as it has room for. Empty where the user
    dictates the split, or speeds did not decide.
    """
    memory_decides = workload.objective not in (Objective.LATENCY, Objective.THROUGHPUT)
    if workload.tensor_split is not None or memory_decides:
        return ()
    wish = replace(workload, n_ctx=chosen.context.n_ctx, largest_ctx=False, objective=Objective.BALANCE)
    now = analytic(profile, machine, wish, chosen.context)(chosen.placement)
    before = {use.id: use.total_bytes for use in now.devices}
    by_id = {device.id: device for device in machine.devices}
    found: list[Alternative] = []
    for kind in _kinds(idle(machine.devices, chosen.placement))[:_MOST]:
        used = (*(by_id[each] for each in chosen.placement.device_order), kind[0])
        rig = replace(machine, devices=used)
        other = plan_placement(profile, rig, wish, reorder=False)
        if chosen.placement.n_gpu_layers <= profile.n_layers and workload.n_gpu_layers is None:
            relieved = plan_with_all(profile, rig, replace(wish, objective=workload.objective))
            other = relieved if kind[0].id in relieved.placement.device_order else other
        after = {use.id: use.total_bytes for use in other.estimate.devices}
        found.append(
            Alternative(
                name=with_name(kind[0]),
                flags=(*pinned_context(workload, chosen), *placement_flags(other.placement)),
                context=other.context,
                placement=other.placement,
                estimate=other.estimate,
                fits=other.estimate.fits,
                change_bytes={each: after.get(each, 0) - before.get(each, 0) for each in {**before, **after}},
            )
        )
    return tuple(found)


def left_alone(profile: ModelProfile, machine: Machine, workload: Workload) -> frozenset[str]:
    """The devices of known speed that the model leaves idle if planned alone."""
    if len(machine.devices) < 2:
        return frozenset()
    placement = plan_placement(profile, machine, workload).placement
    unused = idle(machine.devices, placement)
    return frozenset(device.id for device in unused if not has_assumed_speed(device))


def idle_reasons(plan: Plan) -> tuple[str, ...]:
    """A sentence for each kind of device that the plan leaves out."""
    said = []
    others = {other.name: other for other in plan.alternatives}
    for kind in _kinds(idle(plan.devices, plan.placement)):
        other = others.get(with_name(kind[0]))
        ids = ", ".join(device.id for device in kind)
        cost = _cost(plan, other.speed) if other is not None else None
        if kind[0].id in plan.used:
            price = "" if cost is None or cost < 0.005 else f", where layers would cost {cost:.0%}"
            said.append(f"{kind[0].name} ({ids}) has the draft model to itself{price}")
        elif has_assumed_speed(kind[0]):
            price = (
                f"using it {_price(cost)} at its assumed speed of"
                if cost is not None
                else "its speed is assumed,"
            )
            said.append(
                f"{kind[0].name} ({ids}) left idle: {price} {assumption(kind[0])}; {how_to_measure(kind)}"
            )
        elif cost is None:
            said.append(f"{kind[0].name} ({ids}) not used")
        else:
            said.append(f"{kind[0].name} ({ids}) left idle: using it {_price(cost)}")
    return tuple(said)


def idle(devices: tuple[Device, ...], placement: Placement) -> list[Device]:
    """Devices without layers."""
    return [device for device in devices if device.id not in placement.device_order]


def with_name(device: Device) -> str:
    """What the alternative that uses `device` too is called."""
    return f"with {device.id}"


def _kinds(devices: list[Device]) -> list[list[Device]]:
    """Devices together that are alike."""
    alike: dict[tuple[object, ...], list[Device]] = {}
    for device in devices:
        alike.setdefault((device.name, device.free_bytes, device.speed, device.companion_bytes), []).append(
            device
        )
    return list(alike.values())


def _price(cost: float) -> str:
    """What a step comes to that takes `cost` more of its time, or with a negative one less."""
    if abs(cost) < 0.005:
        return "would gain nothing"
    if cost < 0:
        return f"would save {-cost:.0%}"
    return f"would cost {cost:.0%}" if cost < 1 else f"would take {1 + cost:.1f} times as long"


def _cost(plan: Plan, other: SpeedEstimate | None) -> float | None:
    """How much longer `other` takes for what the plan was made for, as a share."""
    if plan.speed is None or other is None:
        return None
    if plan.objective is Objective.THROUGHPUT:
        now, then = plan.speed.prompt_stage_s, other.prompt_stage_s
    else:
        now, then = plan.speed.step_s, other.step_s
    return None if now is None or then is None else then / now - 1
