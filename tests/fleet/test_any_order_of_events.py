"""A fleet under any order of requests, orders, loads, deaths and configurations.

Its engines have no process: test_real_fleet.py has real ones.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.conftest import PlanOnCpu
from tests.fleet.held_engines import Engines, HeldEngine
from tests.fleet.plans import fleet_plan, packed
from tests.patience import soon, until
from vram_llm.errors import EngineDied, ModelRefused, UnknownModel, VramLLMError
from vram_llm.fleet.manager import Fleet
from vram_llm.fleet.residency import Phase
from vram_llm.planner.fleet.types import FleetPlan
from vram_llm.planner.types import HOST, Plan

SIZES = {"a": 1, "b": 2, "c": 2, "d": 3}
BUDGET = 4
NAMES = st.sampled_from(sorted(SIZES))
TURNS = 12  # of the event loop, for steps that wait for nothing


@dataclass(eq=False)
class Asked:
    """A request: it waits for its lease, then holds it until `ends` is set."""

    name: str
    ends: asyncio.Event = field(default_factory=asyncio.Event)
    engine: HeldEngine | None = None
    task: "asyncio.Task[None] | None" = None

    async def run(self, fleet: Fleet) -> None:
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(fleet.lease(self.name))
            assert isinstance(engine, HeldEngine)
            self.engine = engine
            assert engine.state == "ready"
            await self.ends.wait()

    @property
    def is_done(self) -> bool:
        return self.task is not None and self.task.done()


class AnyOrder(RuleBasedStateMachine):
    """The events; `plans` are those of two configurations of each model."""

    def __init__(self, plans: tuple[Plan, Plan]) -> None:
        super().__init__()
        self._plans = plans
        self._version = dict.fromkeys(SIZES, 0)
        self._runner = asyncio.Runner()
        self._engines = Engines()
        self._engines.hold = set(SIZES)
        self._asked: list[Asked] = []
        self._orders: list[asyncio.Task[None]] = []
        self._unloaded: set[str] = set()  # by an order after which nobody asked for the model
        self._run(self._start())

    # -- events ----------------------------------------------------------------------------------

    @rule(name=NAMES)
    def ask(self, name: str) -> None:
        self._unloaded.discard(name)
        self._run(self._ask(name))

    @rule(index=st.integers(0, 99))
    def answer(self, index: int) -> None:
        if held := [each for each in self._asked if each.engine is not None and not each.is_done]:
            self._do(held[index % len(held)].ends.set)

    @rule(index=st.integers(0, 99))
    def leave(self, index: int) -> None:
        if open_ := [each for each in self._asked if not each.is_done]:
            task = open_[index % len(open_)].task
            assert task is not None
            self._do(task.cancel)

    @rule(name=NAMES)
    def order_load(self, name: str) -> None:
        self._unloaded.discard(name)
        self._order(self._fleet.load(name))

    @rule(name=NAMES)
    def order_unload(self, name: str) -> None:
        if self._is_there(name):
            self._unloaded.add(name)
        self._order(self._fleet.unload(name))

    @rule()
    def order_sleep(self) -> None:
        self._unloaded |= {model.spec.name for model in self._fleet.plan.models}
        self._order(self._fleet.sleep())

    @rule(name=NAMES, fails=st.sampled_from([None, None, None, EngineDied("signal 9"), ModelRefused("no")]))
    def end_load(self, name: str, fails: VramLLMError | None) -> None:
        for engine in self._living(name):
            engine.refusal = fails
            self._do(engine.may_load.set)

    @rule(name=NAMES)
    def die(self, name: str) -> None:
        for engine in self._living(name):
            if engine.state == "ready":
                self._do(engine.die)

    @rule(name=NAMES)
    def change(self, name: str) -> None:
        self._version[name] ^= 1
        self._run(self._fleet.apply(self._plan()))

    @rule(name=NAMES)
    def remove_or_add(self, name: str) -> None:
        names = {model.spec.name for model in self._fleet.plan.models} ^ {name}
        if names:
            self._unloaded.discard(name)
            self._run(self._fleet.apply(self._plan(names)))

    # -- what holds at any time ------------------------------------------------------------------

    @invariant()
    def the_budget_holds(self) -> None:
        alive = [engine for engine in self._engines.made if engine.state != "dead"]
        names = [engine._model_name for engine in alive]
        assert len(set(names)) == len(names), "two engines of one model"
        assert sum(SIZES[name] for name in names) <= BUDGET

    @invariant()
    def leases_hold_their_engines(self) -> None:
        for asked in self._asked:
            if asked.engine is not None and not asked.is_done:
                assert asked.engine.state == "ready" or asked.engine.failure is not None

    @invariant()
    def errors_are_those_that_happened(self) -> None:
        for asked in self._asked:
            if asked.task is not None and asked.is_done and not asked.task.cancelled():
                error = asked.task.exception()
                assert error is None or isinstance(error, EngineDied | ModelRefused | UnknownModel)

    def teardown(self) -> None:
        """Let everything end: no request waits for ever, and models that were to be unloaded are."""
        try:
            self._run(self._end())
        finally:
            self._run(soon(self._fleet.stop()))
            self._runner.close()

    async def _end(self) -> None:
        self._engines.hold.clear()
        for asked in self._asked:
            asked.ends.set()

        def is_over() -> bool:
            for engine in self._engines.made:
                engine.may_load.set()
            return all(each.is_done for each in self._asked) and all(order.done() for order in self._orders)

        await until(is_over, "the end of all requests and orders")
        models = self._fleet._residents.models
        steady = (Phase.ABSENT, Phase.RESIDENT)
        await until(
            lambda: is_over() and all(managed.phase in steady for managed in models.values()),
            "the last steps",
        )
        for order in self._orders:
            with suppress(VramLLMError):
                order.result()
        resident = {name for name, managed in models.items() if managed.phase is Phase.RESIDENT}
        assert not resident & self._unloaded, "an order to unload was lost"
        self.the_budget_holds()
        self.errors_are_those_that_happened()

    # -- parts -----------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._fleet = Fleet(self._plan(), make_engine=self._engines)
        await self._fleet.start()

    async def _ask(self, name: str) -> None:
        asked = Asked(name)
        asked.task = asyncio.create_task(asked.run(self._fleet))
        self._asked.append(asked)

    def _order(self, order: Coroutine[Any, Any, None]) -> None:
        async def begin() -> None:
            self._orders.append(asyncio.create_task(order))

        self._run(begin())

    def _plan(self, names: set[str] | None = None) -> FleetPlan:
        if names is None:
            is_first = not hasattr(self, "_fleet")
            names = set(SIZES) if is_first else {model.spec.name for model in self._fleet.plan.models}
        models = [
            packed(name, self._plans[self._version[name]], uses={HOST: SIZES[name]}, min_residency_s=0)
            for name in sorted(names)
        ]
        quick = [
            replace(model, replicas=tuple(replace(replica, load_s=1e-3) for replica in model.replicas))
            for model in models
        ]
        return fleet_plan(*quick, budget=BUDGET)

    def _living(self, name: str) -> list[HeldEngine]:
        return [each for each in self._engines.made if each._model_name == name and each.state != "dead"]

    def _is_there(self, name: str) -> bool:
        return any(model.spec.name == name for model in self._fleet.plan.models)

    def _do(self, step: Callable[[], object]) -> None:
        async def do() -> None:
            step()

        self._run(do())

    def _run(self, step: Coroutine[Any, Any, None]) -> None:
        async def do() -> None:
            await step
            for _ in range(TURNS):
                await asyncio.sleep(0)  # the fleet's tasks run

        self._runner.run(do())


def test_any_order_of_events(plan_on_cpu: PlanOnCpu) -> None:
    plans = plan_on_cpu(n_ctx=512), plan_on_cpu(n_ctx=1024)

    class OfPlans(AnyOrder):
        def __init__(self) -> None:
            super().__init__(plans)

    run_state_machine_as_test(
        OfPlans, settings=settings(max_examples=15, stateful_step_count=30, deadline=None)
    )
