"""Why a device of a plan is idle, and the price of using it."""

from vram_llm.machine.assumed_speed import has_assumed_speed
from vram_llm.machine.types import Device
from vram_llm.planner.types import Objective, Plan, PlannedDevice, SpeedEstimate

_NOTHING = 0.005


def idle_reason(plan: Plan, device: PlannedDevice) -> str:
    """The reason as a table shows it."""
    price = price_of_using(plan, device)
    if price is None:
        return "idle: the split is dictated" if plan.dictated else "idle: not needed"
    assumed = " (its speed is assumed)" if has_assumed_speed(device) else ""
    return f"idle: using it {_in_words(price)}{assumed}"


def _in_words(price: float) -> str:
    if abs(price) < _NOTHING:
        return "would gain nothing"
    if price < 0:
        return f"would save {-price:.0%}"
    return f"would cost {price:.0%}" if price < 1 else f"would take {1 + price:.1f} times as long"


def price_of_using(plan: Plan, device: PlannedDevice) -> float | None:
    """The relative increase of the time if `device` is used too; None if it is not known.

    One device represents all equal devices.
    """
    names = {with_name(other) for other in plan.devices if kind_of(other) == kind_of(device)}
    other = next((other for other in plan.alternatives if other.name in names), None)
    return None if other is None else _slower(plan, other.speed)


def with_name(device: Device) -> str:
    """The name of the alternative that uses `device` too."""
    return f"with {device.id}"


def kind_of(device: Device) -> tuple[object, ...]:
    """A key that is the same for equal devices."""
    return device.name, device.free_bytes, device.speed, device.companion_bytes


def _slower(plan: Plan, other: SpeedEstimate | None) -> float | None:
    if plan.speed is None or other is None:
        return None
    if plan.objective is Objective.THROUGHPUT:
        now, then = plan.speed.prompt_stage_s, other.prompt_stage_s
    else:
        now, then = plan.speed.step_s, other.step_s
    return None if now is None or then is None else then / now - 1
