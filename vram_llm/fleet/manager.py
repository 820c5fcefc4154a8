"""The models of a fleet at run time: lends out their engines, and takes the operator's orders.

residency.py decides which models are loaded, residents.py loads and unloads them.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.plan_source import Replan
from vram_llm.errors import EngineDied, Overloaded, UnknownModel
from vram_llm.fleet.engines import FleetEngine, MakeEngine
from vram_llm.fleet.load_plans import LoadPlans, loads_alike
from vram_llm.fleet.managed_model import Lease, ManagedModel, Waiter
from vram_llm.fleet.residency import Phase
from vram_llm.fleet.residents import DRAIN_LIMIT_S, Residents
from vram_llm.fleet.snapshots import FleetEvent, FleetModel
from vram_llm.planner.fleet.types import FleetPlan, PackedModel

MAX_WAIT_S = 300.0  # of a request for a model that is not resident
MAX_WAITING = 1024  # such requests for one model
MAX_OUTAGE_S = 60.0  # of an engine that dies again and again; further requests are refused until it works
_MOST_BETWEEN_STARTS_S = 30.0  # of such an engine, see engine/restart_policy.py
_STOPPED = "the server is shutting down"


class Fleet:
    """The engines of a plan's models. Use from one event loop.

    `make_engine` makes the engine of a model. `load_plans` looks at the free memory before a load.
    `on_change` is called whenever a model's state or detail change. A request for a model that is not
    resident waits for `max_wait_s` at most. `drain_limit_s`: see residents.py.

    methods: the server's, the routes' and the operator's, each of a few lines.
    """

    def __init__(
        self,
        plan: FleetPlan,
        *,
        make_engine: MakeEngine,
        load_plans: LoadPlans | None = None,
        on_change: Callable[[FleetModel], None] = lambda _: None,
        max_wait_s: float = MAX_WAIT_S,
        drain_limit_s: float = DRAIN_LIMIT_S,
    ) -> None:
        self.plan = plan
        self._residents = Residents(plan, make_engine, load_plans or LoadPlans(), on_change, drain_limit_s)
        self._max_wait_s = max_wait_s
        self._is_stopping = False

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to load the models that are resident at the start. Returns before they are loaded."""
        for name in self.plan.resident_at_start:
            self._residents.models[name].want(time.monotonic())
        self._residents.advance()

    async def ready(self) -> None:
        """Wait until the models of the start are loaded. Raises the error of the first load that fails."""
        for name in self.plan.resident_at_start:
            await self._until_loaded(name)

    async def drain(self, grace_s: float) -> None:
        """Refuse new leases; give those that are held `grace_s` to end, then end their requests."""
        self._refuse_all()
        models = self._residents.models
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._residents.until(lambda: not any(managed.leases for managed in models.values()))
        engines = [managed.engine for managed in models.values() if managed.engine is not None]
        await asyncio.gather(*(engine.drain(0.0) for engine in engines))

    async def stop(self) -> None:
        """End all engines and wait until they are gone."""
        self._refuse_all()
        await self._residents.close()

    def _check_running(self) -> None:
        if self._is_stopping:
            raise EngineDied(_STOPPED)

    def _refuse_all(self) -> None:
        self._is_stopping = True
        for managed in self._residents.models.values():
            managed.wanted_since = None
            managed.fail_waiters(EngineDied(_STOPPED))

    async def apply(self, plan: FleetPlan) -> None:
        """Go on with another plan. Engines of models that are loaded alike in both stay as they are.

        Models that are gone, and those with another plan, are unloaded once their leases have ended; the
        latter are loaded again if they were resident. Does not wait for that. Raises EngineDied if the fleet
        is stopping.
        """
        self._check_running()
        self.plan = plan
        packed = {model.spec.name: model for model in plan.models}
        for name, managed in list(self._residents.models.items()):
            self._take_change(managed, packed.pop(name, None))
        self._residents.set_plan(plan)
        for name in plan.resident_at_start:
            if name in packed:
                self._residents.models[name].want(time.monotonic())
        self._residents.advance()

    def exchange(self, packed: PackedModel) -> None:
        """Note that a loaded model has its engine by this plan now, so that `apply` leaves it alone."""
        self._residents.models[packed.spec.name].packed = packed

    def _take_change(self, managed: ManagedModel, packed: PackedModel | None) -> None:
        if packed is not None:
            managed.change(packed, time.monotonic(), is_alike=loads_alike(managed.packed, packed))
            return
        managed.is_gone = True
        managed.fail_waiters(UnknownModel(f"The model '{managed.name}' is not served any more", "model"))
        managed.order_out("the configuration no longer has it", time.monotonic())
        if managed.phase is Phase.ABSENT:
            del self._residents.models[managed.name]

    # -- requests --------------------------------------------------------------------------------

    def name_of(self, model: str) -> str:
        """The name of the model with this name or alias. Raises UnknownModel."""
        return self._find(model).name

    @asynccontextmanager
    async def lease(self, model: str) -> AsyncIterator[Engine]:
        """A model's engine, which has loaded and is not unloaded within the block.

        While it is started again after a death, it holds requests. A model that is not resident is loaded.
        Raises UnknownModel, Overloaded if the wait would be too long, and the error of a load that fails
        (EngineDied, DoesNotFit and ModelRefused among them).
        """
        managed = self._find(model)
        lease = await self._enter(managed)
        try:
            yield lease.engine
        finally:
            managed.end_lease(lease, time.monotonic())
            self._residents.advance()

    async def _enter(self, managed: ManagedModel) -> Lease:
        now = time.monotonic()
        managed.times.note_request(now)
        self._check_running()
        if managed.phase is Phase.RESIDENT:
            _check_outage(managed, now)
            return managed.begin_lease(now)
        self._admit(managed, now)
        waiter = Waiter(now, asyncio.get_running_loop().create_future())
        managed.waiters.append(waiter)
        self._residents.advance()
        try:
            async with asyncio.timeout(self._max_wait_s):
                return await waiter.granted
        except BaseException as error:  # cancelled too: its place in the queue is given up
            now = time.monotonic()
            managed.abandon(waiter, now)
            self._residents.advance()
            if not isinstance(error, TimeoutError):
                raise
        wait_s = self._residents.wait(managed, now).known_s
        raise _overloaded(managed, f"was not loaded within {self._max_wait_s:g} s", wait_s)

    def _admit(self, managed: ManagedModel, now: float) -> None:
        """Raises Overloaded if a new request would wait too long, or the error of a load that just failed."""
        if managed.failure is not None and (retry_in_s := managed.retry_in_s(now)) and not managed.waiters:
            managed.failure.retry_after_s = retry_in_s
            raise managed.failure.with_traceback(None)  # else it keeps the frames of each request
        wait = self._residents.wait(managed, now)
        if wait.least_s > self._max_wait_s:
            about = (
                f"in {wait.least_s:.3g} s" if wait.is_known else f"in {wait.least_s:.3g} s at the earliest"
            )
            reason = f"would be loaded {about} and {self._max_wait_s:g} s is the longest wait"
            raise _overloaded(managed, reason, wait.least_s - self._max_wait_s)
        if len(managed.waiters) >= MAX_WAITING:
            reason = f"is not loaded and {MAX_WAITING} requests wait for it"
            raise _overloaded(managed, reason, wait.known_s)

    # -- orders of the operator ------------------------------------------------------------------

    async def load(self, model: str) -> None:
        """Load a model as a request would, and wait for it. Raises as `lease` does."""
        managed = self._find(model)
        self._check_running()
        managed.want(time.monotonic())
        self._residents.advance()
        await self._until_loaded(managed.name)

    async def unload(self, model: str) -> None:
        """Unload a model once its leases have ended, and wait for that. A request loads it again.

        Raises UnknownModel.
        """
        await self._order_out([self._find(model)], "it was ordered", sleeps=False)

    async def sleep(self, model: str | None = None) -> None:
        """Unload a model, or all, for another program's sake. Only a request loads them again.

        Raises UnknownModel.
        """
        models = list(self._residents.models.values()) if model is None else [self._find(model)]
        await self._order_out(models, "it sleeps", sleeps=True)

    async def _order_out(self, models: list[ManagedModel], why: str, *, sleeps: bool) -> None:
        names = {managed.name for managed in models}
        for name in set(names):
            names |= self._residents.groups.partners(name)
        models = [managed for name, managed in self._residents.models.items() if name in names]
        for managed in models:
            managed.order_out(why, time.monotonic(), sleeps=sleeps)
        self._residents.advance()
        await self._residents.until(lambda: not any(managed.why_ordered_out for managed in models))

    async def _until_loaded(self, name: str) -> None:
        managed = self._residents.models[name]
        await self._residents.until(lambda: managed.wanted_since is None)
        if managed.phase is not Phase.RESIDENT and managed.failure is not None:
            raise managed.failure.with_traceback(None)

    # -- facts -----------------------------------------------------------------------------------

    def snapshot(self, model: str) -> FleetModel:
        """A model as it is now. Raises UnknownModel."""
        return self._find(model).snapshot(time.monotonic())

    def snapshots(self) -> tuple[FleetModel, ...]:
        """All models, in the plan's order."""
        names = [model.spec.name for model in self.plan.models]
        return tuple(self._residents.models[name].snapshot(time.monotonic()) for name in names)

    def engine(self, model: str) -> FleetEngine | None:
        """The engine of a model that is resident, loading or unloading, without a lease.

        For facts alone, as metrics need them. Raises UnknownModel.
        """
        return self._find(model).engine

    def activity(self, model: str) -> EngineActivity | None:
        """The work of a model now, and the counts of all its loads; None: it was never loaded.

        Raises UnknownModel.
        """
        return self._find(model).activity

    def replan_of(self, model: str) -> Replan | None:
        """Plans the engine of a model again, for EngineClient. Raises UnknownModel."""
        return self._residents.loader.replan_of(self._find(model))

    def events(self) -> AsyncIterator[FleetEvent]:
        """Changes from now on, until `stop`. A reader who is 1024 changes behind loses the oldest."""
        return self._residents.changes.read()

    def _find(self, model: str) -> ManagedModel:
        for name, managed in self._residents.models.items():
            if not managed.is_gone and (name == model or model in managed.packed.spec.aliases):
                return managed
        names = ", ".join(packed.spec.name for packed in self.plan.models)
        raise UnknownModel(f"The model '{model}' does not exist here; this server has {names}", "model")


def _check_outage(managed: ManagedModel, now: float) -> None:
    """Raises EngineDied if the engine of a resident model has not worked for too long."""
    out_s = 0.0 if managed.out_since is None else now - managed.out_since
    if out_s > MAX_OUTAGE_S:
        error = EngineDied(f"{managed.name} has not worked for {out_s:.0f} s: {managed.detail}")
        error.retry_after_s = _MOST_BETWEEN_STARTS_S
        raise error


def _overloaded(managed: ManagedModel, reason: str, retry_after_s: float | None) -> Overloaded:
    if retry_after_s is None:
        return Overloaded(f"{managed.name} {reason}; it is not known when it will be: try again later", None)
    return Overloaded(f"{managed.name} {reason}; try again in {retry_after_s:.3g} s", retry_after_s)
