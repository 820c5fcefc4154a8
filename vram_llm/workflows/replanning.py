"""Plans in place of one that no longer holds: its file has changed, or memory ran out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vram_llm.planner.smaller_plan import PlanReductions, workload_with
from vram_llm.units import GIB
from vram_llm.workflows import planning

if TYPE_CHECKING:
    from vram_llm.machine.types import Machine
    from vram_llm.planner.types import Plan, Workload

_MOST_MORE_BYTES = 2 * GIB  # a larger gap has another cause than the engine's own overhead
_HOW = "at least; it ran out of memory"


@dataclass(frozen=True, slots=True)
class Replanner:
    """Plans a model again. `machine` reads the machine as it is now."""

    model: str
    machine: "Callable[[], Machine]"
    workload: "Workload"

    def __call__(self, plan: "Plan", reductions: PlanReductions) -> "Plan":
        """The plan in place of `plan`, with `reductions`. Raises the errors of `planning.plan`."""
        machine = self.machine()
        if reductions.short is not None and store_overhead(plan, machine, reductions.short):
            machine = self.machine()
        return planning.plan(self.model, machine, workload_with(self.workload, reductions))


def overhead_seen(plan: "Plan", machine: "Machine", device_id: str) -> int | None:
    """The least overhead that explains why a card ran out of memory, in bytes; None: nothing explains it.

    The card had room for the plan and all that is free on it now, so the rest was outside llama.cpp's
    buffers. If less is free than was planned, other programs have taken it.
    """
    uses = {use.id: use for use in plan.estimate.devices}
    card = next((device for device in plan.devices if device.id == device_id), None)
    if card is None or card.uuid is None or device_id not in uses:
        return None
    free = next((device.free_bytes for device in machine.devices if device.uuid == card.uuid), 0)
    use = uses[device_id]
    seen = free - (use.total_bytes - use.overhead_bytes)
    return seen if use.overhead_bytes < seen <= use.overhead_bytes + _MOST_MORE_BYTES else None


def store_overhead(plan: "Plan", machine: "Machine", device_id: str) -> bool:
    """Store the overhead that was seen, as `verify` does. Returns whether there was one."""
    from vram_llm.machine import overhead_store

    seen = overhead_seen(plan, machine, device_id)
    if seen is None:
        return False
    card = next(device for device in plan.devices if device.id == device_id)
    record = overhead_store.new_record(
        card, seen, how=_HOW, model=plan.model.name, driver=card.driver_version
    )
    overhead_store.store({str(card.uuid): record})
    return True
