"""Plans side by side: several rigs for a model, several models for a rig."""

from dataclasses import dataclass

from vram_llm.planner.placed_parts import listed, on_host
from vram_llm.planner.types import Plan, SpeedEstimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One model on one rig. If it does not fit, `refusal` gives the reason and the other fields are None."""

    model: str
    rig: str
    fits: bool
    refusal: str | None = None
    n_ctx: int | None = None
    n_layers: int | None = None
    cpu_layers: int | None = None
    on_cpu: str = ""  # weights on the CPU, in words, also parts of layers
    device_order: tuple[str, ...] = ()
    tensor_split: tuple[int, ...] = ()
    headroom_bytes: int | None = None  # unused part of the budgets of all devices, idle ones too
    speed: SpeedEstimate | None = None  # None if a speed is not known


def compared(plan: Plan, rig: str) -> ComparisonRow:
    """The figures of a plan that are compared."""
    return ComparisonRow(
        model=plan.model.name,
        rig=rig,
        fits=True,
        n_ctx=plan.context.n_ctx,
        n_layers=plan.model.n_layers,
        cpu_layers=plan.placement.cpu_layers,
        on_cpu=listed(on_host(plan.placement).phrases(plan.model.n_layers)),
        device_order=plan.placement.device_order,
        tensor_split=plan.placement.tensor_split,
        headroom_bytes=_headroom(plan),
        speed=plan.speed,
    )


def _headroom(plan: Plan) -> int:
    left = {use.id: -use.over_bytes for use in plan.estimate.devices}
    return sum(left.get(device.id, device.budget_bytes(device.reserve_bytes)) for device in plan.devices)
