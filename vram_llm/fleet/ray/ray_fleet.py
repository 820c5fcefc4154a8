"""A fleet whose models are replaced while they serve."""

import logging
from collections.abc import Callable, Iterable, Mapping

from vram_llm.errors import ServerUnreachable
from vram_llm.fleet.manager import Fleet
from vram_llm.fleet.ray.cluster import last_line
from vram_llm.fleet.ray.deployments import ModelNeeds, RayModels
from vram_llm.fleet.snapshots import FleetModel
from vram_llm.planner.fleet.types import FleetPlan, PackedModel

log = logging.getLogger("vram_llm.fleet")


class RayFleet(Fleet):
    """The models of a cluster. `models` makes their engines."""

    def __init__(
        self,
        plan: FleetPlan,
        models: RayModels,
        on_change: Callable[[FleetModel], None] = lambda _: None,
    ) -> None:
        super().__init__(plan, make_engine=models, on_change=on_change)
        self._models = models

    async def exchange_all(self, plan: FleetPlan, needs: Mapping[str, ModelNeeds]) -> None:
        """Go on with another plan. Replicas of models that have changed are replaced one after the other.

        `needs` are the plan's, by the model's name. Those of models with the same spec hold from their next
        load on. A model whose number of replicas is another is unloaded and loaded again.

        Raises ServerUnreachable if Ray refuses a deployment; then the models go on as before.
        """
        before = {packed.spec.name: packed for packed in self.plan.models}
        needs_before, tried = self._models.needs, list[PackedModel]()
        try:
            for packed in plan.models:
                was = before.get(packed.spec.name)
                if was is None or was.spec == packed.spec:
                    continue
                tried.append(was)
                if await self._models.replace(needs[packed.spec.name], len(packed.replicas)):
                    self.exchange(packed)
        except Exception as error:  # of many kinds, which Ray does not name
            await self._put_back(tried, needs_before)
            raise ServerUnreachable(
                f"Ray did not take the new deployment of {tried[-1].spec.name}: {last_line(str(error))}"
            ) from error
        for each in needs.values():
            self._models.note(each)
        await self.apply(plan)

    async def _put_back(self, models: Iterable[PackedModel], needs: Mapping[str, ModelNeeds]) -> None:
        """Deploy models as they were."""
        for packed in models:
            name = packed.spec.name
            self.exchange(packed)
            try:
                await self._models.replace(needs[name], len(packed.replicas))
            except Exception as error:  # as above; the next deployment is by the needs that are noted
                log.warning("Ray does not take the earlier deployment of %s either: %s", name, error)
