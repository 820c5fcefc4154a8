"""Which models of a fleet may be resident together, as they are loaded now."""

from collections.abc import Iterable, Mapping

from vram_llm.fleet.managed_model import ManagedModel
from vram_llm.planner.fleet.limits import FittingModels, Limits, united
from vram_llm.planner.fleet.room import without
from vram_llm.planner.fleet.types import FleetPlan


class Groups:
    """The limits of a plan. Models count with the bytes that they are loaded with, also by other plans."""

    def __init__(self, plan: FleetPlan, models: Mapping[str, ManagedModel]) -> None:
        self._limits = Limits.of(plan)
        self._models = models
        self._unions = united(plan.together, (model.spec.name for model in plan.models))

    def partners(self, name: str) -> frozenset[str]:
        """The other models that are loaded and unloaded with this one."""
        return self._unions.get(name, frozenset()) - {name}

    def room_beside(self, uses: Iterable[Mapping[str, int]]) -> dict[str, int]:
        """The bytes that `uses` leave of the budgets, by device id and "host"."""
        return without(self._limits.budgets, uses, self._limits.one_program)

    def fitting(self) -> FittingModels:
        """The models as they are loaded now, or would be."""
        uses = {
            name: [replica.uses for replica in managed.replicas] for name, managed in self._models.items()
        }
        return FittingModels(self._limits, uses)
