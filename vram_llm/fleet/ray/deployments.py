"""The engines of a fleet on a Ray cluster: each model is a deployment of Ray Serve."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import EngineState
from vram_llm.errors import EngineDied
from vram_llm.fleet.engines import FleetEngine
from vram_llm.fleet.ray.cluster import AppState
from vram_llm.fleet.ray.links import ReplicaLink, Switchboard
from vram_llm.fleet.ray.remote_engine import RemoteEngine
from vram_llm.fleet.ray.replica import PlanHere, ReplicaOrder
from vram_llm.fleet.replicas import ReplicaSet
from vram_llm.planner.fleet.types import FleetModelSpec
from vram_llm.planner.types import Plan

log = logging.getLogger("vram_llm.fleet")

_LOOK_EVERY_S = 1.0  # at a deployment without all its replicas


class Serve(Protocol):
    """Ray Serve as deployments use it. RayCluster implements it; its methods are called in threads."""

    def deploy(
        self, order: ReplicaOrder, needs: Mapping[str, float], *, replicas: int, most_per_node: int
    ) -> None: ...

    def delete(self, app: str) -> None: ...

    def states(self) -> dict[str, AppState]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeeds:
    """A model on a cluster: what is asked for, and what each of its replicas takes of a node."""

    spec: FleetModelSpec
    resources: Mapping[str, float]
    most_per_node: int
    watchdog_s: float | None = None
    grace_s: float = 10.0  # for requests to end when a replica is replaced


@dataclass(slots=True, eq=False)
class ModelDeployment:
    """The replicas of one model, while it is loaded. A ReplicaSource of its engines."""

    serve: Serve
    switchboard: Switchboard
    order: ReplicaOrder
    needs: ModelNeeds
    replicas: int
    links: "asyncio.Queue[ReplicaLink]" = field(default_factory=asyncio.Queue)
    _engines: list[RemoteEngine] = field(default_factory=list)
    _watch: asyncio.Task[None] | None = None

    @property
    def is_deployed(self) -> bool:
        """Whether its replicas run, or are started."""
        return self._watch is not None

    def begin(self, engine: RemoteEngine) -> None:
        """Deploy the model for its first engine, and report to all."""
        if engine not in self._engines:  # one that has failed may begin again
            self._engines.append(engine)
        if self._watch is None:
            self.switchboard.expect(self.order.spec.name, self.links.put_nowait)
            self._watch = asyncio.create_task(self._deploy_and_watch(), name="deployment")

    async def end(self, engine: RemoteEngine) -> None:
        """End the replicas with the last engine."""
        self._engines = [other for other in self._engines if other is not engine]
        if self._engines or self._watch is None:
            return
        self.switchboard.forget(self.order.spec.name)
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        self._watch = None
        await asyncio.to_thread(self.serve.delete, self.order.app)

    async def replace(self, order: ReplicaOrder, needs: ModelNeeds) -> None:
        """Go on with another order: Serve replaces one replica after the other.

        Raises Ray's errors, of many kinds; then the order stays as it was.
        """
        before = self.order, self.needs
        self.order, self.needs = order, needs
        try:
            await self._deploy()
        except BaseException:  # cancelled too: the order before holds
            self.order, self.needs = before
            raise

    async def _deploy(self) -> None:
        await asyncio.to_thread(
            self.serve.deploy,
            self.order,
            self.needs.resources,
            replicas=self.replicas,
            most_per_node=self.needs.most_per_node,
        )

    async def _deploy_and_watch(self) -> None:
        try:
            await self._deploy()
        except Exception as error:  # of many kinds, which Ray does not name
            self._fail(str(error))
            return
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)  # between two looks at the replicas
            if all(engine.state is EngineState.READY for engine in self._engines):
                continue
            try:
                state = (await asyncio.to_thread(self.serve.states)).get(self.order.app)
            except Exception as error:  # the cluster may be away for a while
                log.warning("Ray Serve does not answer: %s", error)
                continue
            if state is not None and state.has_failed:
                self._fail(state.message)
            elif state is not None and state.message:
                self._say(state.message)

    def _fail(self, why: str) -> None:
        for engine in self._engines:
            engine.fail(EngineDied(why))

    def _say(self, detail: str) -> None:
        for engine in self._engines:
            engine.say(detail)


class RayModels:
    """Makes the engines of a fleet's models, which Ray Serve runs. A MakeEngine.

    `plan_here` plans on a node. `needs` are those of each model by its name.
    """

    def __init__(
        self,
        serve: Serve,
        switchboard: Switchboard,
        address: tuple[str, int],
        plan_here: PlanHere,
        needs: Mapping[str, ModelNeeds],
    ) -> None:
        self._serve = serve
        self._switchboard, self._address = switchboard, address
        self._plan_here = plan_here
        self._needs = dict(needs)
        self._deployments: dict[str, ModelDeployment] = {}

    def __call__(self, plans: tuple[Plan, ...], name: str, on_state: Callable[[Engine], None]) -> FleetEngine:
        needs = self._needs[name]
        source = ModelDeployment(
            self._serve, self._switchboard, self._order(needs), needs, replicas=len(plans)
        )
        self._deployments[name] = source
        if len(plans) == 1:
            return RemoteEngine(plans[0], name, source, on_state)
        return ReplicaSet([RemoteEngine(plan, name, source) for plan in plans], on_state)

    @property
    def needs(self) -> Mapping[str, ModelNeeds]:
        """The needs of each model at its next load, by its name."""
        return dict(self._needs)

    def note(self, needs: ModelNeeds) -> None:
        """Use other needs at the model's next load."""
        self._needs[needs.spec.name] = needs

    async def replace(self, needs: ModelNeeds, replicas: int) -> bool:
        """Replace the replicas of a model that is loaded. False: it is not, or has another number of them."""
        self.note(needs)
        deployment = self._deployments.get(needs.spec.name)
        if deployment is None or not deployment.is_deployed or deployment.replicas != replicas:
            return False
        await deployment.replace(self._order(needs), needs)
        return True

    def _order(self, needs: ModelNeeds) -> ReplicaOrder:
        return ReplicaOrder(
            app=f"vram-llm-{self._switchboard.token[:8]}-{needs.spec.name}",
            spec=needs.spec,
            plan_here=self._plan_here,
            address=self._address,
            token=self._switchboard.token,
            watchdog_s=needs.watchdog_s,
            grace_s=needs.grace_s,
        )
