"""Orders to load, unload and sleep, with engines that have no process."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from tests.fleet.held_engines import Engines
from tests.fleet.running_fleet import leased, running, states
from tests.patience import soon, until
from vram_llm.fleet.snapshots import ModelState
from vram_llm.planner.fleet.types import FleetPlan
from vram_llm.planner.types import HOST

RESIDENT, UNLOADED, QUEUED = ModelState.RESIDENT, ModelState.UNLOADED, ModelState.QUEUED


async def test_orders(plan: FleetPlan) -> None:
    async with running(plan, Engines()) as fleet:
        async with fleet.lease("a"):
            order = asyncio.create_task(fleet.unload("a"))
            await asyncio.sleep(0.05)  # it must still wait: longer here would only make it surer
            assert not order.done()
        await soon(order)
        assert states(fleet) == {"a": UNLOADED, "b": RESIDENT, "c": UNLOADED}
        await soon(fleet.load("c"))
        await soon(fleet.sleep())
        assert states(fleet) == {"a": ModelState.SLEEPING, "b": ModelState.SLEEPING, "c": ModelState.SLEEPING}
        await leased(fleet, "b")
        assert states(fleet)["b"] is RESIDENT


async def test_an_order_to_load_that_waits_for_memory_is_taken_back(plan: FleetPlan) -> None:
    async with running(plan, Engines()) as fleet, fleet.lease("a"), fleet.lease("b"):
        order = asyncio.create_task(fleet.load("c"))
        await until(lambda: states(fleet)["c"] is QUEUED, "queued")
        await soon(fleet.unload("c"))
        await soon(order)
        assert states(fleet) == {"a": RESIDENT, "b": RESIDENT, "c": UNLOADED}


@pytest.mark.parametrize("phase", ["waits for memory", "loads", "drains for another"])
async def test_an_order_to_unload_comes_first_whatever_the_model_does(plan: FleetPlan, phase: str) -> None:
    """A request that waits is answered, and then the model is unloaded, also if nobody needs the memory."""
    engines = Engines()
    engines.hold = {"c"}
    async with running(plan, engines) as fleet, AsyncExitStack() as held:
        if phase == "drains for another":
            for name in "ab":
                await held.enter_async_context(fleet.lease(name))
            waiting = asyncio.create_task(leased(fleet, "c"))
            await until(lambda: ModelState.UNLOADING in states(fleet).values(), "a drain")
            name = next(name for name, state in states(fleet).items() if state is ModelState.UNLOADING)
            order = asyncio.create_task(fleet.unload(name))
            await asyncio.sleep(0)  # the order begins
            waiting.cancel()
        else:
            if phase == "waits for memory":
                for name in "ab":
                    await held.enter_async_context(fleet.lease(name))
            waiting, name = asyncio.create_task(leased(fleet, "c")), "c"
            await until(lambda: states(fleet)["c"] in (QUEUED, ModelState.LOADING), "asked")
            order = asyncio.create_task(fleet.unload(name))
            await asyncio.sleep(0)  # the order begins
        await held.aclose()
        await until(lambda: waiting.done() or len(engines.made) == 3, "the load")
        if name == "c":
            engines.latest("c").may_load.set()
        await soon(asyncio.gather(waiting, return_exceptions=True))
        await soon(order)
        assert states(fleet)[name] is UNLOADED


async def test_an_order_to_unload_ends_a_load_for_which_nobody_waits(plan: FleetPlan) -> None:
    engines = Engines()
    engines.hold = {"c"}
    async with running(plan, engines) as fleet:
        load = asyncio.create_task(fleet.load("c"))
        await until(lambda: len(engines.made) == 3, "the load")
        await soon(fleet.unload("c"))
        await soon(load)
        assert (states(fleet)["c"], engines.latest("c").state) == (UNLOADED, "dead")
        again = asyncio.create_task(fleet.load("c"))
        await until(lambda: len(engines.made) == 4, "the load")
        gone = asyncio.create_task(fleet.unload("c"))
        await asyncio.sleep(0)  # the order begins
        last = asyncio.create_task(fleet.load("c"))  # the last order counts
        await until(lambda: len(engines.made) == 5, "the load")
        engines.latest("c").may_load.set()
        await soon(asyncio.gather(again, gone, last))
        assert states(fleet)["c"] is RESIDENT


async def test_an_order_that_comes_as_a_load_ends_is_carried_out(plan: FleetPlan) -> None:
    """The engine has loaded, and the fleet has not taken note of it."""
    engines = Engines()
    engines.hold = {"c"}
    async with running(plan, engines) as fleet:
        load = asyncio.create_task(fleet.load("c"))
        await until(lambda: len(engines.made) == 3, "the load")
        engines.latest("c").may_load.set()
        order = asyncio.create_task(fleet.unload("c"))
        await soon(asyncio.gather(load, order))
        assert (states(fleet)["c"], engines.latest("c").state) == (UNLOADED, "dead")
        engines.hold.clear()
        async with fleet.lease("c") as engine:
            assert engine is engines.latest("c") is not engines.made[2]


async def test_an_order_to_load_a_model_that_leaves_is_done_if_it_stays(plan: FleetPlan) -> None:
    alone = replace(plan, budgets={HOST: 1}, resident_at_start=("a",))
    async with running(alone, Engines()) as fleet:
        async with fleet.lease("a"):
            waiting = asyncio.create_task(leased(fleet, "c"))
            await until(lambda: states(fleet)["a"] is ModelState.UNLOADING, "a drain")
            order = asyncio.create_task(fleet.load("a"))
            await asyncio.sleep(0)  # the order begins
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await soon(order)
        await soon(leased(fleet, "c"))  # nobody waits for a any more
