"""The memory before a load, and plans that are made again, with engines that have no process."""

import asyncio
import threading
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from tests.conftest import PlanOnCpu
from tests.fleet.held_engines import Engines
from tests.fleet.plans import packed
from tests.fleet.running_fleet import leased, running, states
from tests.patience import PATIENCE_S, soon, until
from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.fleet import load_plans
from vram_llm.fleet.load_plans import LoadPlans, Room
from vram_llm.fleet.snapshots import ModelState
from vram_llm.planner.fleet.types import FleetModelSpec, FleetPlan, PackedModel, PlacedReplica
from vram_llm.planner.smaller_plan import PlanReductions
from vram_llm.planner.types import HOST, Plan

RESIDENT, UNLOADED, QUEUED = ModelState.RESIDENT, ModelState.UNLOADED, ModelState.QUEUED


async def test_memory_that_other_programs_take(
    plan: FleetPlan, plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_plans, "_LOOK_EVERY_S", 0.001)
    free = {HOST: 100}
    loads = LoadPlans(lambda _: free)
    async with running(plan, Engines(), load_plans=loads) as fleet:
        await fleet.sleep()
        free[HOST] = 0
        with pytest.raises(
            DoesNotFit, match=r"c does not fit into the memory that is free now: the host \(needs"
        ):
            await soon(leased(fleet, "c"))
    replans = Replans(packed("c", plan_on_cpu(n_ctx=256)))
    async with running(plan, engines := Engines(), load_plans=LoadPlans(lambda _: free, replans)) as fleet:
        await leased(fleet, "c")
        assert engines.latest("c").plan.context.n_ctx == 256
    assert [(len(room.residents), room.left) for room in replans.rooms] == [(1, {HOST: 1})] * 3


async def test_an_engine_that_is_planned_again_has_the_memory_that_others_leave(
    plan: FleetPlan, plan_on_cpu: PlanOnCpu
) -> None:
    """No load begins before the new plan counts. An engine that has ended meanwhile gets none."""
    replans = Replans(packed("a", plan_on_cpu(n_ctx=256), uses={HOST: 2}))
    roomy = replace(plan, budgets={HOST: 3})
    loads, engines = LoadPlans(None, replans), Engines()
    async with running(roomy, engines, load_plans=loads) as fleet, AsyncExitStack() as held:
        await soon(fleet.unload("b"))
        await held.enter_async_context(fleet.lease("a"))
        replan = fleet.replan_of("a")
        assert replan is not None
        replans.may_end.clear()
        planning = asyncio.create_task(asyncio.to_thread(replan, engines.latest("a").plan, PlanReductions()))
        await until(lambda: len(replans.rooms) == 1, "begun")
        b, c = (asyncio.create_task(leased(fleet, name)) for name in "bc")
        await asyncio.sleep(0.05)  # they must still wait: longer here would only make it surer
        assert (states(fleet)["b"], states(fleet)["c"]) == (QUEUED, QUEUED)
        replans.may_end.set()
        assert (await soon(planning)).context.n_ctx == 256
        await soon(b)  # beside the two bytes of a; for c there is no room
        assert fleet.snapshot("a").bytes_by_device == {HOST: 2}
        c.cancel()
        await asyncio.gather(c, return_exceptions=True)
        with pytest.raises(BadPlan, match="a has another plan by now"):
            await soon(asyncio.to_thread(replan, engines.made[0].plan, PlanReductions()))
    assert replans.rooms[0].left == {HOST: 3}


async def test_a_plan_for_an_engine_that_has_ended_is_not_counted(
    plan: FleetPlan, plan_on_cpu: PlanOnCpu
) -> None:
    """The next engine is loaded by the plan of the configuration, which takes more."""
    replans = Replans(packed("a", plan_on_cpu(n_ctx=256)))
    large = packed("a", plan_on_cpu(), uses={HOST: 2}, min_residency_s=0)
    tight = replace(plan, models=(large, *plan.models[1:]), resident_at_start=("a",))
    loads, engines = LoadPlans(None, replans), Engines()
    async with running(tight, engines, load_plans=loads) as fleet:
        replan = fleet.replan_of("a")
        assert replan is not None
        replans.may_end.clear()
        planning = asyncio.create_task(asyncio.to_thread(replan, engines.latest("a").plan, PlanReductions()))
        await until(lambda: len(replans.rooms) == 1, "begun")
        await soon(fleet.unload("a"))
        replans.may_end.set()
        with pytest.raises(BadPlan, match="a has another plan by now"):
            await soon(planning)
        assert fleet.snapshot("a").bytes_by_device == {HOST: 2}


class Replans:
    """Gives `packed` for each plan that is made again, and keeps the rooms."""

    def __init__(self, packed: PackedModel) -> None:
        self.packed = packed
        self.rooms: list[Room] = []
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, name: str, room: Room) -> PackedModel:
        self.rooms.append(room)
        return (
            self.packed
            if name == self.packed.spec.name
            else replace(self.packed, spec=FleetModelSpec(name=name, source=""))
        )

    def replica(self, name: str, plan: Plan, room: Room, reductions: PlanReductions) -> PlacedReplica:
        self.rooms.append(room)
        assert self.may_end.wait(PATIENCE_S)
        return self.packed.replicas[0]
