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
from vram_llm.fleet.managed_model import ManagedModel
from vram_llm.fleet.residency import Decision, Phase, Standing, decide
from vram_llm.fleet.snapshots import FleetEvent, FleetModel, ModelState
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
        self.models = {model.spec.name: ManagedModel.of(model) for model in plan.models}
        self.groups = Groups(plan, self.models)
        self.changes = Changes()
        self.loader = Loader(
            self.models, lambda: self.groups, make_engine, load_plans, self._note_engine_state, self.advance
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
            self.models.setdefault(model.spec.name, ManagedModel.of(model))
        self.groups = Groups(plan, self.models)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for a condition on the models."""
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
        await asyncio.gather(*(_end_engine(managed) for managed in self.models.values()))
        self.loader.close()
        for managed in self.models.values():
            managed.note_gone(time.monotonic())
            self._tell(managed)
        self._stirred.set()
        self.changes.close()

    def wait(self, managed: ManagedModel, now: float) -> Wait:
        """The expected time until a request that comes now has the model."""
        steady = frozenset(each.name for each in self.models.values() if each.times.are_steady)
        fits = self.groups.fitting().fit
        return wait_for(managed.name, self._standings(now), fits, now, steady)

    def _standings(self, now: float) -> list[Standing]:
        return [
            managed.standing(now, self.groups.partners(name) & self.models.keys())
            for name, managed in self.models.items()
        ]

    # -- decisions -------------------------------------------------------------------------------

    def advance(self) -> None:
        """Decide, and begin the steps that are due."""
        if self._is_closed:
            self._stirred.set()
            return
        now = time.monotonic()
        decision = decide(self._standings(now), self.groups.fitting().fit, now)
        for managed in list(self.models.values()):
            self._drain_or_keep(managed, decision, now)
        for name in decision.load if not self.loader.is_planning else ():
            self._begin_load(self.models[name], now)
        self._look_again(decision, now)
        for managed in self.models.values():
            self._tell(managed)
        self._stirred.set()

    def _drain_or_keep(self, managed: ManagedModel, decision: Decision, now: float) -> None:
        why = decision.drain.get(managed.name)
        if why is not None and managed.phase is Phase.RESIDENT:
            managed.note_drain(why, Phase.DRAINING, now)
            log.info("%s is unloaded: %s", managed.name, managed.why_drained)
        elif why is not None and managed.phase is Phase.LOADING:
            managed.note_drain(why, Phase.STOPPING, now)
            log.info("the load of %s is ended: %s", managed.name, managed.why_drained)
            assert managed.load is not None
            managed.load.cancel()  # now: it must not end well before the next step begins
            self._run(self._cut_load(managed, managed.load))
        elif why is None and managed.is_draining:  # one that is cut off refuses requests, and has to end
            managed.phase, managed.wanted_since = Phase.RESIDENT, None
            managed.grant_all(now)
        if managed.phase is Phase.DRAINING:
            if not managed.leases:
                managed.phase = Phase.STOPPING
                self._run(self._stop(managed))
            elif now - managed.drained_at >= self._drain_limit_s and not managed.is_cut_off:
                managed.is_cut_off = True
                self._run(self._cut_off(managed))

    def _look_again(self, decision: Decision, now: float) -> None:
        """Set the timer for the next step that time alone makes due."""
        draining = (managed for managed in self.models.values() if managed.is_draining)
        times = [managed.drained_at + self._drain_limit_s for managed in draining]
        times += [decision.look_again_at] if decision.look_again_at is not None else []
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if times:
            delay_s = max(min(times) - now, 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.advance)

    # -- steps -----------------------------------------------------------------------------------

    def _begin_load(self, managed: ManagedModel, now: float) -> None:
        managed.note_load_began(now)
        managed.load = self._run(self._load(managed))

    async def _load(self, managed: ManagedModel) -> None:
        try:
            try:
                await self.loader.load(managed)
            except EngineDied as error:  # the requests that wait outlive one death
                log.warning("%s is loaded once more: %s", managed.name, error)
                await _end_engine(managed)
                await self.loader.load(managed)
        except VramLLMError as error:
            await self._fail(managed, error)
        except Exception as error:  # a bug must not leave requests waiting for ever
            log.exception("the load of %s failed", managed.name)
            await self._fail(managed, EngineDied(f"{managed.name} could not be loaded: {error}"))
        else:
            managed.note_loaded(time.monotonic())
            self._run(self._watch(managed))
        self.advance()

    def _note_engine_state(self, managed: ManagedModel) -> None:
        managed.note_engine_state(time.monotonic())
        self._tell(managed)
        self._stirred.set()

    async def _fail(self, managed: ManagedModel, error: VramLLMError) -> None:
        log.error("%s was not loaded: %s", managed.name, error)
        await _end_engine(managed)
        managed.note_failed(error, time.monotonic())
        self._forget_if_gone(managed)

    async def _watch(self, managed: ManagedModel) -> None:
        """Wait until the engine is not started again after a death."""
        engine = managed.engine
        assert engine is not None
        try:
            await engine.ended()
        except VramLLMError as error:
            if managed.engine is engine and managed.phase in (Phase.RESIDENT, Phase.DRAINING):
                managed.phase = Phase.STOPPING
                await self._fail(managed, error)
                self.advance()

    async def _cut_load(self, managed: ManagedModel, load: "asyncio.Task[None]") -> None:
        """End a load that nobody needs and that is cancelled."""
        await asyncio.wait([load])
        await _end_engine(managed)
        managed.note_gone(time.monotonic())
        self._forget_if_gone(managed)
        self.advance()

    async def _stop(self, managed: ManagedModel) -> None:
        await _end_engine(managed)
        managed.note_gone(time.monotonic())
        self._forget_if_gone(managed)
        self.advance()

    def _forget_if_gone(self, managed: ManagedModel) -> None:
        if managed.is_gone:
            self.models.pop(managed.name, None)

    async def _cut_off(self, managed: ManagedModel) -> None:
        """End its requests, and its engine: a client that reads slowly may hold its lease for hours."""
        engine = managed.engine
        assert engine is not None
        log.warning(
            "%s has %d requests that have not ended within %g s; they end now, for %s",
            managed.name,
            len(managed.leases),
            self._drain_limit_s,
            managed.why_drained,
        )
        try:
            await engine.drain(0.0)
        except Exception:  # of many kinds, as from Ray: the engine has to end all the same
            log.exception("the requests of %s could not be ended", managed.name)
        if managed.engine is engine and managed.phase is Phase.DRAINING:
            managed.phase = Phase.STOPPING
            await self._stop(managed)

    def _run(self, step: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return run_in_background(step, self._tasks)

    # -- events ----------------------------------------------------------------------------------

    def _tell(self, managed: ManagedModel) -> None:
        """Pass a change of state or detail on."""
        seen = managed.state, managed.detail
        if self._seen.get(managed.name) == seen:
            return
        self._seen[managed.name] = seen
        snapshot = managed.snapshot(time.monotonic())
        self.changes.add(
            FleetEvent(
                time=time.time(),
                model=managed.name,
                state=snapshot.state,
                detail=snapshot.detail,
                load_fraction=snapshot.load_fraction,
            )
        )
        self._on_change(snapshot)


async def _end_engine(managed: ManagedModel) -> None:
    try:
        if managed.engine is not None:
            await managed.engine.stop()
    except Exception:  # of many kinds, as from Ray: the model must not be unloaded for ever
        log.exception("the end of the engine of %s failed", managed.name)
