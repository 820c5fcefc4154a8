"""The engines of a fleet: carries out what residency.py decides.

A model leaves in three steps: new requests for it wait, its leases end, its processes end. The load of the
next model begins once they are gone. Requests that have not ended after `drain_limit_s` end with EngineDied,
and the model leaves before their clients have read that: no slow reader keeps others waiting for ever.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from vram_llm.errors import EngineDied, VramLLMError
from vram_llm.fleet.background import run_in_background
from vram_llm.fleet.changes import Changes
from vram_llm.fleet.engines import MakeEngine
from vram_llm.fleet.forecast import Wait, wait_for
from vram_llm.fleet.groups import Groups
from vram_llm.fleet.load_plans import LoadPlans
from vram_llm.fleet.loading import Loader
from vram_llm.fleet.residency import Decision, Phase, Standing, decide
from vram_llm.fleet.snapshots import FleetEvent, FleetModel, ModelState
from vram_llm.fleet.tenant import Tenant
from vram_llm.planner.fleet.types import FleetPlan

log = logging.getLogger("vram_llm.fleet")

DRAIN_LIMIT_S = 300.0  # for the leases of a model that others wait for


class Residents:
    """The models of a fleet by name. Call `advance` after each change of one. Use from one event loop."""

    def __init__(
        self,
        plan: FleetPlan,
        make_engine: MakeEngine,
        load_plans: LoadPlans,
        on_change: Callable[[FleetModel], None],
        drain_limit_s: float,
    ) -> None:
        self.tenants = {model.spec.name: Tenant.of(model) for model in plan.models}
        self.groups = Groups(plan, self.tenants)
        self.changes = Changes()
        self.loader = Loader(
            self.tenants, lambda: self.groups, make_engine, load_plans, self._note_engine_state, self.advance
        )
        self._on_change = on_change
        self._drain_limit_s = drain_limit_s
        self._seen: dict[str, tuple[ModelState, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stirred = asyncio.Event()
        self._is_closed = False

    def set_plan(self, plan: FleetPlan) -> None:
        """Go on with the sets of another plan, and with new models."""
        for model in plan.models:
            self.tenants.setdefault(model.spec.name, Tenant.of(model))
        self.groups = Groups(plan, self.tenants)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for a condition on the tenants."""
        while not is_so():
            self._stirred.clear()
            await self._stirred.wait()

    async def close(self) -> None:
        """End all engines and wait until they are gone."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(_end_engine(tenant) for tenant in self.tenants.values()))
        self.loader.close()
        for tenant in self.tenants.values():
            tenant.note_gone(time.monotonic())
            self._tell(tenant)
        self._stirred.set()
        self.changes.close()

    def wait(self, tenant: Tenant, now: float) -> Wait:
        """The expected time until a request that comes now has the model."""
        steady = frozenset(each.name for each in self.tenants.values() if each.times.are_steady)
        fits = self.groups.fitting().fit
        return wait_for(tenant.name, self._standings(now), fits, now, steady)

    def _standings(self, now: float) -> list[Standing]:
        return [
            tenant.standing(now, self.groups.partners(name) & self.tenants.keys())
            for name, tenant in self.tenants.items()
        ]

    # -- decisions -------------------------------------------------------------------------------

    def advance(self) -> None:
        """Decide, and begin the steps that are due."""
        if self._is_closed:
            self._stirred.set()
            return
        now = time.monotonic()
        decision = decide(self._standings(now), self.groups.fitting().fit, now)
        for tenant in list(self.tenants.values()):
            self._drain_or_keep(tenant, decision, now)
        for name in decision.load if not self.loader.is_planning else ():
            self._begin_load(self.tenants[name], now)
        self._look_again(decision, now)
        for tenant in self.tenants.values():
            self._tell(tenant)
        self._stirred.set()

    def _drain_or_keep(self, tenant: Tenant, decision: Decision, now: float) -> None:
        why = decision.drain.get(tenant.name)
        if why is not None and tenant.phase is Phase.RESIDENT:
            tenant.note_drain(why, Phase.DRAINING, now)
            log.info("%s is unloaded: %s", tenant.name, tenant.why_drained)
        elif why is not None and tenant.phase is Phase.LOADING:
            tenant.note_drain(why, Phase.STOPPING, now)
            log.info("the load of %s is ended: %s", tenant.name, tenant.why_drained)
            assert tenant.load is not None
            tenant.load.cancel()  # now: it must not end well before the next step begins
            self._run(self._cut_load(tenant, tenant.load))
        elif why is None and tenant.is_draining:  # one that is cut off refuses requests, and has to end
            tenant.phase, tenant.wanted_since = Phase.RESIDENT, None
            tenant.grant_all(now)
        if tenant.phase is Phase.DRAINING:
            if not tenant.leases:
                tenant.phase = Phase.STOPPING
                self._run(self._stop(tenant))
            elif now - tenant.drained_at >= self._drain_limit_s and not tenant.is_cut_off:
                tenant.is_cut_off = True
                self._run(self._cut_off(tenant))

    def _look_again(self, decision: Decision, now: float) -> None:
        """Set the timer for the next step that time alone makes due."""
        draining = (tenant for tenant in self.tenants.values() if tenant.is_draining)
        times = [tenant.drained_at + self._drain_limit_s for tenant in draining]
        times += [decision.look_again_at] if decision.look_again_at is not None else []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if times:
            delay_s = max(min(times) - now, 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.advance)

    # -- steps -----------------------------------------------------------------------------------

    def _begin_load(self, tenant: Tenant, now: float) -> None:
        tenant.note_load_began(now)
        tenant.load = self._run(self._load(tenant))

    async def _load(self, tenant: Tenant) -> None:
        try:
            try:
                await self.loader.load(tenant)
            except EngineDied as error:  # the requests that wait outlive one death
                log.warning("%s is loaded once more: %s", tenant.name, error)
                await _end_engine(tenant)
                await self.loader.load(tenant)
        except VramLLMError as error:
            await self._fail(tenant, error)
        except Exception as error:  # a bug must not leave requests waiting for ever
            log.exception("the load of %s failed", tenant.name)
            await self._fail(tenant, EngineDied(f"{tenant.name} could not be loaded: {error}"))
        else:
            tenant.note_loaded(time.monotonic())
            self._run(self._watch(tenant))
        self.advance()

    def _note_engine_state(self, tenant: Tenant) -> None:
        tenant.note_engine_state(time.monotonic())
        self._tell(tenant)
        self._stirred.set()

    async def _fail(self, tenant: Tenant, error: VramLLMError) -> None:
        log.error("%s was not loaded: %s", tenant.name, error)
        await _end_engine(tenant)
        tenant.note_failed(error, time.monotonic())
        self._forget_if_gone(tenant)

    async def _watch(self, tenant: Tenant) -> None:
        """Wait until the engine is not started again after a death."""
        engine = tenant.engine
        assert engine is not None
        try:
            await engine.ended()
        except VramLLMError as error:
            if tenant.engine is engine and tenant.phase in (Phase.RESIDENT, Phase.DRAINING):
                tenant.phase = Phase.STOPPING
                await self._fail(tenant, error)
                self.advance()

    async def _cut_load(self, tenant: Tenant, load: "asyncio.Task[None]") -> None:
        """End a load that nobody needs and that is cancelled."""
        await asyncio.wait([load])
        await _end_engine(tenant)
        tenant.note_gone(time.monotonic())
        self._forget_if_gone(tenant)
        self.advance()

    async def _stop(self, tenant: Tenant) -> None:
        await _end_engine(tenant)
        tenant.note_gone(time.monotonic())
        self._forget_if_gone(tenant)
        self.advance()

    def _forget_if_gone(self, tenant: Tenant) -> None:
        if tenant.is_gone:
            self.tenants.pop(tenant.name, None)

    async def _cut_off(self, tenant: Tenant) -> None:
        """End its requests, and its engine: a client that reads slowly may hold its lease for hours."""
        engine = tenant.engine
        assert engine is not None
        log.warning(
            "%s has %d requests that have not ended within %g s; they end now, for %s",
            tenant.name,
            len(tenant.leases),
            self._drain_limit_s,
            tenant.why_drained,
        )
        try:
            await engine.drain(0.0)
        except Exception:  # of many kinds, as from Ray: the engine has to end all the same
            log.exception("the requests of %s could not be ended", tenant.name)
        if tenant.engine is engine and tenant.phase is Phase.DRAINING:
            tenant.phase = Phase.STOPPING
            await self._stop(tenant)

    def _run(self, step: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return run_in_background(step, self._tasks)

    # -- events ----------------------------------------------------------------------------------

    def _tell(self, tenant: Tenant) -> None:
        """Pass a change of state or detail on."""
        seen = tenant.state, tenant.detail
        if self._seen.get(tenant.name) == seen:
            return
        self._seen[tenant.name] = seen
        snapshot = tenant.snapshot(time.monotonic())
        self.changes.add(
            FleetEvent(
                time=time.time(),
                model=tenant.name,
                state=snapshot.state,
                detail=snapshot.detail,
                load_fraction=snapshot.load_fraction,
            )
        )
        self._on_change(snapshot)


async def _end_engine(tenant: Tenant) -> None:
    try:
        if tenant.engine is not None:
            await tenant.engine.stop()
    except Exception:  # of many kinds, as from Ray: the model must not be unloaded for ever
        log.exception("the end of the engine of %s failed", tenant.name)
