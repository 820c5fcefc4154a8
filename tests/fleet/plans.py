"""Fleet plans for tests, of plans that exist."""

from collections.abc import Mapping
from typing import Any

from vram_llm.machine.types import Source
from vram_llm.planner.fleet.limits import FittingModels, Limits
from vram_llm.planner.fleet.types import FLEET_VERSION, FleetModelSpec, FleetPlan, PackedModel, PlacedReplica
from vram_llm.planner.types import HOST, Plan


def packed(name: str, *plans: Plan, uses: Mapping[str, int] | None = None, **spec: Any) -> PackedModel:
    """A model with the places of `plans`; `uses` are those of each, one byte of the host by default."""
    replicas = tuple(
        PlacedReplica(
            devices=plan.used,
            uses={HOST: 1} if uses is None else uses,
            tokens_per_s=None,
            throughput_tokens_per_s=None,
            load_s=0.4,
            load_basis=Source.ASSUMED,
            plan=plan,
        )
        for plan in plans
    )
    return PackedModel(
        spec=FleetModelSpec(name=name, source=plans[0].model.path, **spec),
        replicas=replicas,
        why="for a test",
    )


def fleet_plan(*models: PackedModel, budget: int, at_start: str = "", **fields: Any) -> FleetPlan:
    """A plan of models of one letter each: `at_start` is a string of their names."""
    limits = Limits(budgets={HOST: budget})
    fitting = FittingModels(
        limits, {model.spec.name: [replica.uses for replica in model.replicas] for model in models}
    )
    return FleetPlan(
        version=FLEET_VERSION,
        models=models,
        devices=(),
        budgets={HOST: budget},
        resident_at_start=tuple(at_start),
        sets=fitting.maximal_sets(),
        **fields,
    )
