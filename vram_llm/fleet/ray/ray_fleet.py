"""A fleet whose models are replaced while they serve."""

from collections.abc import Callable, Mapping

from vram_llm.fleet.manager import Fleet
from vram_llm.fleet.ray.deployments import ModelNeeds, RayModels
from vram_llm.fleet.snapshots import FleetModel
from vram_llm.planner.fleet.types import FleetPlan


class RayFleet(Fleet):
    """The models of a cluster. `models` makes their engines; `needs_of` gives those that a plan's have."""

    def __init__(
        self,
        plan: FleetPlan,
        models: RayModels,
        needs_of: Callable[[FleetPlan], Mapping[str, ModelNeeds]],
        on_change: Callable[[FleetModel], None] = lambda _: None,
    ) -> None:
        super().__init__(plan, make_engine=models, on_change=on_change)
        self._models = models
        self._needs_of = needs_of

    async def apply(self, plan: FleetPlan) -> None:
        """Go on with another plan. Replicas of models that have changed are replaced one after the other.

        A model whose number of replicas is another is unloaded and loaded again.
        """
        before = {packed.spec.name: packed for packed in self.plan.models}
        needs = self._needs_of(plan)
        for packed in plan.models:
            was = before.get(packed.spec.name)
            if was is None or was.spec == packed.spec:
                self._models.note(needs[packed.spec.name])
            elif await self._models.replace(needs[packed.spec.name], len(packed.ways)):
                self.exchange(packed)
        await super().apply(plan)
