"""`plan --config FILE --json`: the plan of a fleet, with the table of its swaps."""

from dataclasses import dataclass, fields

import msgspec

from vram_llm.planner.fleet.types import FleetPlan
from vram_llm.planner.fleet.unloading import Swap, swap_table


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFleet(FleetPlan):
    """A plan, and the swap of each model with each set of models without it."""

    swaps: tuple[Swap, ...]


def planned_fleet_json(plan: FleetPlan) -> str:
    """The document, as indented JSON. `fleet_from_json` reads it too."""
    facts = {field.name: getattr(plan, field.name) for field in fields(FleetPlan)}
    document = PlannedFleet(**facts, swaps=swap_table(plan))
    return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2).decode()
