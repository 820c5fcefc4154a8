"""Loads of models: their plans for the memory that is free now, and their engines.

A model gets another plan in three cases: other programs have taken its memory before a load; its engine ran
out of memory; its file has changed. One plan is made at a time, in the memory that the plans of all other
models leave, and no other load is begun meanwhile: so two plans never count on the same bytes.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vram_llm.engine.plan_source import Replan
from vram_llm.errors import BadPlan
from vram_llm.fleet.engines import MakeEngine
from vram_llm.fleet.groups import Groups
from vram_llm.fleet.load_plans import LoadPlans, Room, places, refusal
from vram_llm.fleet.managed_model import ManagedModel
from vram_llm.fleet.residency import Phase
from vram_llm.planner.fleet.types import PlacedReplica
from vram_llm.planner.smaller_plan import PlanReductions
from vram_llm.planner.types import HOST, Plan

log = logging.getLogger("vram_llm.fleet")
T = TypeVar("T")


class Loader:
    """Loads the models in `models`, whose limits are those of `groups`.

    `on_state` is called whenever the state or detail of an engine changes, and `on_planned` when a model has
    another plan.
    """

    def __init__(
        self,
        models: Mapping[str, ManagedModel],
        groups: Callable[[], Groups],
        make_engine: MakeEngine,
        load_plans: LoadPlans,
        on_state: Callable[[ManagedModel], None],
        on_planned: Callable[[], None],
    ) -> None:
        self._models = models
        self._groups = groups
        self._make_engine = make_engine
        self._load_plans = load_plans
        self._on_state = on_state
        self._on_planned = on_planned
        self._device_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turn = asyncio.Lock()
        self._n_planning = 0
        # a pool of its own: engines that wait for their plans hold the threads of the loop's
        self._thread = ThreadPoolExecutor(1, "fleet planner")

    @property
    def is_planning(self) -> bool:
        """Whether a model gets another plan now, so that no load may be begun."""
        return self._n_planning > 0

    async def load(self, managed: ManagedModel) -> None:
        """Load a model. Raises the error of its engine, and DoesNotFit. Its engine is to be ended then."""
        async with contextlib.AsyncExitStack() as stack:
            for device_id in sorted(managed.packed.uses.keys() - {HOST}):  # its free bytes are one load's
                await stack.enter_async_context(self._device_locks[device_id])
            managed.began_at = time.monotonic()
            await self._take_plans(managed)
            managed.engine = self._make_engine(managed.plans, managed.name, lambda _: self._on_state(managed))
            managed.engine.start()
            managed.info = await managed.engine.ready()

    def close(self) -> None:
        """Plan nothing any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -- plans -----------------------------------------------------------------------------------

    async def _take_plans(self, managed: ManagedModel) -> None:
        """Its own plans, or others that fit the memory that is free now. Raises DoesNotFit."""
        packed, replan = managed.packed, self._load_plans.replan
        short = await self._load_plans.short_bytes(packed.uses)
        if not short:
            managed.take(packed)
            return
        if replan is None:
            raise refusal(packed, short)
        log.warning(
            "%s is planned again, for other programs hold memory: %s", managed.name, places(packed, short)
        )
        async with self._planning(managed) as room:
            managed.take(await self._in_thread(lambda: replan(managed.name, room)))

    def replan_of(self, managed: ManagedModel) -> Replan | None:
        """Plans a model's engine again, called in another thread; None: it cannot be planned again."""
        if self._load_plans.replan is None:
            return None
        loop = asyncio.get_running_loop()

        def replan(plan: Plan, reductions: PlanReductions) -> Plan:
            return asyncio.run_coroutine_threadsafe(self._replanned(managed, plan, reductions), loop).result()

        return replan

    async def _replanned(self, managed: ManagedModel, plan: Plan, reductions: PlanReductions) -> Plan:
        """Another plan of an engine. Raises DoesNotFit; BadPlan if the model has other plans by now."""
        replan = self._load_plans.replan
        replica = next((replica for replica in managed.replicas if replica.plan == plan), None)
        engine = managed.engine
        async with self._planning(managed, replica) as room:
            if replica is not None and replan is not None:
                found = await self._in_thread(lambda: replan.replica(managed.name, plan, room, reductions))
                is_loaded = engine is not None and managed.engine is engine  # by these plans
                if is_loaded and any(each is replica for each in managed.replicas):
                    managed.replicas = tuple(found if each is replica else each for each in managed.replicas)
                    return found.plan
        raise BadPlan(f"{managed.name} has another plan by now")

    @contextlib.asynccontextmanager
    async def _planning(
        self, managed: ManagedModel, replica: PlacedReplica | None = None
    ) -> AsyncIterator[Room]:
        """A turn to plan a model again, or only `replica`. The block has to take the new plans."""
        self._n_planning += 1
        try:
            async with self._turn:
                yield self._room(managed, replica)
        finally:
            self._n_planning -= 1
            self._on_planned()

    def _room(self, managed: ManagedModel, replica: PlacedReplica | None) -> Room:
        copies = [] if replica is None else [each for each in managed.replicas if each is not replica]
        others = [each for each in self._models.values() if each is not managed]
        held = [each for other in others if other.phase is not Phase.ABSENT for each in other.replicas]
        loaded = [
            plan
            for other in others
            if other.phase not in (Phase.ABSENT, Phase.STOPPING)
            for plan in other.plans
        ]
        left = self._groups().room_beside([each.uses for each in (*held, *copies)])
        return Room(left=left, residents=(*loaded, *(each.plan for each in copies)))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
