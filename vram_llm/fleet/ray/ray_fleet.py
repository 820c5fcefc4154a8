"""A fleet whose models are replaced while they serve."""

from collections.abc import Callable, Mapping

from vram_llm.fleet.manager import Fleet
from vram_llm.fleet.ray.deployments import ModelNeeds, RayModels
from vram_llm.fleet.snapshots import FleetModel
from vram_llm.planner.fleet.types import FleetPlan


class RayFleet(Fleet):
    """The models of a cluster. `models` makes their engines."""

    def __init__(
        self, plan: FleetPlan, models: RayModels, on_change: Callable[[FleetModel], None] = lambda _: None
    ) -> None:
        super().__init__(plan, make_engine=models, on_change=on_change)
        self._models = models

    async def roll_out(self, plan: FleetPlan, needs: Mapping[str, ModelNeeds]) -> None:
        """Go on with another plan. Replicas of models that have changed are replaced one after the other.

        A model whose number of replicas is another is unloaded and loaded again.
        """
        before = {packed.spec.name: packed for packed in self.plan.models}
        for packed in plan.models:
            name = packed.spec.name
            was = before.get(name)
            if was is None or was.spec == packed.spec:
                self._models.note(needs[name])
            elif await self._models.replace(needs[name], len(packed.ways)):
                self.exchange(packed)
        await self.apply(plan)
