"""A fleet's leases, orders, events and changes, with engines that have no process."""

import asyncio
from dataclasses import replace

import pytest

from tests.conftest import PlanOnCpu
from tests.fleet.held_engines import Engines, HeldEngine
from tests.fleet.plans import fleet_plan, packed
from tests.fleet.running_fleet import leased, running, states
from tests.patience import soon, until
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.stats import EngineStats
from vram_llm.errors import EngineDied, ModelRefused, Overloaded, UnknownModel
from vram_llm.fleet import manager, residents, retries
from vram_llm.fleet.forecast import Wait
from vram_llm.fleet.manager import Fleet
from vram_llm.fleet.snapshots import FleetEvent, ModelState
from vram_llm.planner.fleet.types import FleetPlan
from vram_llm.planner.types import HOST

RESIDENT, UNLOADED, QUEUED = ModelState.RESIDENT, ModelState.UNLOADED, ModelState.QUEUED


async def test_models_of_the_start_are_resident(plan: FleetPlan) -> None:
    async with running(plan, Engines()) as fleet:
        assert states(fleet) == {"a": RESIDENT, "b": RESIDENT, "c": UNLOADED}
        async with fleet.lease("aa") as engine:
            assert engine is fleet.engine("a")
            assert fleet.snapshot("a").in_flight == 1
        assert fleet.snapshot("a").in_flight == 0
        with pytest.raises(UnknownModel, match="The model 'd' does not exist here; this server has a, b, c"):
            await leased(fleet, "d")


async def test_a_request_replaces_the_model_used_longest_ago(plan: FleetPlan) -> None:
    async with running(plan, Engines()) as fleet:
        for name in "ba":
            fleet._residents.models[name].load_s = 0.4  # equal ones: a model that loads faster leaves first
            await leased(fleet, name)
        async with fleet.lease("c"):
            assert states(fleet) == {"a": RESIDENT, "b": UNLOADED, "c": RESIDENT}


async def test_leases_hold_a_model_and_later_requests_for_it_wait(plan: FleetPlan) -> None:
    engines = Engines()
    alone = replace(plan, budgets={HOST: 1}, resident_at_start=("a",))
    async with running(alone, engines) as fleet:
        async with fleet.lease("a") as engine:
            waiting = asyncio.create_task(leased(fleet, "c"))
            await until(lambda: states(fleet)["a"] is ModelState.UNLOADING, "a drain")
            late = asyncio.create_task(leased(fleet, "a"))
            await asyncio.sleep(0.05)  # it must still wait: longer here would only make it surer
            assert not waiting.done()
            assert not late.done()
            assert engine.state == "ready"
        await soon(waiting)
        await soon(late)  # loaded again
        assert [(model.name, model.n_loads) for model in fleet.snapshots()] == [("a", 2), ("b", 0), ("c", 1)]


async def test_a_drain_ends_if_nobody_waits_any_more(plan: FleetPlan) -> None:
    async with running(plan, Engines()) as fleet:
        async with fleet.lease("a"), fleet.lease("b"):
            waiting = asyncio.create_task(leased(fleet, "c"))
            await until(lambda: ModelState.UNLOADING in states(fleet).values(), "a drain")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert states(fleet) == {"a": RESIDENT, "b": RESIDENT, "c": UNLOADED}
        assert [fleet.snapshot(name).in_flight for name in "ab"] == [0, 0]


@pytest.mark.parametrize("failure", [None, RuntimeError("the cluster is away")])
async def test_a_slow_reader_keeps_no_model_after_the_limit(
    plan: FleetPlan, failure: Exception | None
) -> None:
    """Its request ends in the engine, and its lease when it has read that."""
    engines = Engines()
    alone = replace(plan, budgets={HOST: 1}, resident_at_start=("a",))
    async with running(alone, engines, drain_limit_s=0.1) as fleet:
        engines.latest("a").drain_failure = failure
        async with fleet.lease("a"):
            await soon(leased(fleet, "c"))
            assert engines.latest("a").n_drains == 1
            assert states(fleet) == {"a": UNLOADED, "b": UNLOADED, "c": RESIDENT}
        assert fleet.snapshot("a").in_flight == 0


async def test_a_model_that_was_cut_off_ends_also_if_nobody_waits_any_more(plan: FleetPlan) -> None:
    engines = Engines()
    alone = replace(plan, budgets={HOST: 1}, resident_at_start=("a",))
    async with running(alone, engines, drain_limit_s=0.1) as fleet:
        async with fleet.lease("a") as engine:
            waiting = asyncio.create_task(leased(fleet, "c"))
            await until(lambda: engines.latest("a").n_drains > 0, "the limit")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await until(lambda: states(fleet)["a"] is UNLOADED, "its end: it refuses requests")
        async with fleet.lease("a") as other:
            assert other is not engine


async def test_an_engine_whose_end_fails_does_not_stay_for_ever(plan: FleetPlan) -> None:
    engines = Engines()
    async with running(plan, engines) as fleet:
        engines.latest("a").end_failure = RuntimeError("the cluster is away")
        await soon(fleet.unload("a"))
        assert states(fleet)["a"] is UNLOADED


async def test_a_model_that_cannot_be_loaded_says_why_and_is_tried_again_later(plan: FleetPlan) -> None:
    engines = Engines()
    engines.refusals["c"] = ModelRefused("no such tensor")
    async with running(plan, engines) as fleet:
        for _ in range(2):  # the second without another load
            with pytest.raises(ModelRefused, match="no such tensor") as raised:
                await leased(fleet, "c")
            assert raised.value.retry_after_s is not None
            assert 0 < raised.value.retry_after_s <= retries.FIRST_S
        assert len(engines.made) == 3
        assert (fleet.snapshot("c").state, fleet.snapshot("c").detail) == (
            ModelState.FAILED,
            "no such tensor",
        )
        await leased(fleet, "a")


async def test_a_load_whose_engine_dies_is_done_once_more(plan: FleetPlan) -> None:
    engines = Engines()
    async with running(plan, engines) as fleet:
        engines.hold.add("c")
        engines.refusals["c"] = EngineDied("signal 9")
        waiting = asyncio.create_task(leased(fleet, "c"))
        await until(lambda: len(engines.made) == 3, "begun")
        engines.hold.clear()
        engines.refusals.clear()
        engines.latest("c").may_load.set()
        await soon(waiting)
        assert [engine._model_name for engine in engines.made] == ["a", "b", "c", "c"]


async def test_an_engine_that_is_not_started_again_is_loaded_for_the_next_request(plan: FleetPlan) -> None:
    engines = Engines()
    async with running(plan, engines) as fleet:
        engines.latest("a").die()
        await until(lambda: fleet.snapshot("a").state is ModelState.FAILED, "noticed")
        with pytest.raises(EngineDied, match="too often"):
            await leased(fleet, "a")
        assert fleet.snapshot("b").state is RESIDENT
        await soon(fleet.load("a"))  # an order does not wait
        assert fleet.snapshot("a").n_loads == 2


async def test_an_engine_that_is_out_for_long_refuses_new_requests(
    plan: FleetPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(plan, engines := Engines()) as fleet, fleet.lease("a"):
        engine = engines.latest("a")
        engine._set_state(EngineState.LOADING, "restarting now, after: signal 9")
        await leased(fleet, "a")  # the engine holds its requests
        monkeypatch.setattr(manager, "MAX_OUTAGE_S", 0.0)
        with pytest.raises(
            EngineDied, match=r"a has not worked for 0 s: restarting now, after: signal"
        ) as out:
            await leased(fleet, "a")
        assert out.value.retry_after_s == 30
        await leased(fleet, "b")
        engine._set_state(EngineState.READY, "")
        await leased(fleet, "a")


async def test_requests_that_would_wait_too_long_are_refused_with_the_time(plan: FleetPlan) -> None:
    engines = Engines()
    engines.hold = {"c"}
    async with running(plan, engines, max_wait_s=0.2) as fleet:
        with pytest.raises(Overloaded, match=r"c would be loaded in 0\.[45]\d* s and 0\.2 s is the longest"):
            await leased(fleet, "c")  # the prediction for its load is 0.4 s
    async with running(plan, engines, max_wait_s=0.6) as fleet:
        with pytest.raises(Overloaded, match=r"c was not loaded within 0\.6 s; try again in"):
            await soon(leased(fleet, "c"))
        assert fleet.snapshot("c").waiting == 0


async def test_a_time_to_live(plan_on_cpu: PlanOnCpu) -> None:
    plan = fleet_plan(packed("a", plan_on_cpu(), ttl_s=0.1), budget=1)
    async with running(plan, Engines()) as fleet:
        await leased(fleet, "a")
        await until(lambda: fleet.snapshot("a").state is UNLOADED, "unloaded")


async def test_events(plan: FleetPlan) -> None:
    async with running(plan, Engines()) as fleet:
        events = fleet.events()
        await leased(fleet, "c")
        await fleet.unload("b" if states(fleet)["b"] is RESIDENT else "a")
    seen: list[FleetEvent] = [event async for event in events]
    of_c = [event.state for event in seen if event.model == "c"]
    assert of_c[0] is QUEUED
    assert ModelState.LOADING in of_c
    assert RESIDENT in of_c
    assert len({event.model for event in seen}) == 3


async def test_another_plan_changes_only_what_changed(plan: FleetPlan, plan_on_cpu: PlanOnCpu) -> None:
    engines = Engines()
    async with running(plan, engines) as fleet:
        first = {name: fleet.engine(name) for name in "ab"}
        changed = packed("b", plan_on_cpu(n_ctx=1024), min_residency_s=0)
        new = packed("d", plan_on_cpu(), min_residency_s=0)
        models = (packed("a", plan_on_cpu(), min_residency_s=9), changed, new)
        await fleet.apply(fleet_plan(*models, budget=3, at_start="abd"))
        await until(lambda: list(states(fleet).values()) == [RESIDENT] * 3, "loaded")
        assert fleet.engine("a") is first["a"]
        assert fleet.engine("b") is not first["b"]
        with pytest.raises(UnknownModel):
            await leased(fleet, "c")
        await fleet.apply(fleet_plan(models[0], budget=1))
        await until(lambda: engines.latest("d").state == "dead", "unloaded")
        assert states(fleet) == {"a": RESIDENT}


async def test_a_model_whose_plan_changes_while_it_loads_is_loaded_by_the_new_plan(
    plan_on_cpu: PlanOnCpu,
) -> None:
    engines = Engines()
    engines.hold = {"a"}
    before, after = packed("a", plan_on_cpu()), packed("a", plan_on_cpu(n_ctx=256))
    fleet = Fleet(fleet_plan(before, budget=1), make_engine=engines)
    try:
        waiting = asyncio.create_task(leased(fleet, "a"))
        await until(lambda: len(engines.made) == 1, "the first load")
        await fleet.apply(fleet_plan(after, budget=1))
        await until(lambda: len(engines.made) == 2, "the second load")
        assert engines.made[0].state == "dead"  # nobody needs the first one: it is not waited for
        assert engines.latest("a").plan.context.n_ctx == 256
        engines.latest("a").may_load.set()
        await soon(waiting)
        assert (fleet.snapshot("a").state, fleet.snapshot("a").n_loads) == (RESIDENT, 1)
    finally:
        await soon(fleet.stop())


async def test_loads_that_fail_are_tried_again_ever_later(
    plan: FleetPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors tell when; an order does not wait."""
    engines = Engines()
    engines.refusals["c"] = ModelRefused("no such tensor")
    async with running(plan, engines) as fleet:
        for wait_s in (5, 10, 20):
            with pytest.raises(ModelRefused):
                await fleet.load("c")
            with pytest.raises(ModelRefused) as raised:
                await leased(fleet, "c")
            assert raised.value.retry_after_s is not None
            assert wait_s / 2 < raised.value.retry_after_s <= wait_s
        monkeypatch.setattr(retries, "FIRST_S", 0.0)
        engines.refusals.clear()
        await leased(fleet, "c")


async def test_an_unknown_wait_has_no_number(plan: FleetPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not refused at once; a bound that is known is told as one."""
    engines = Engines()
    engines.hold = {"c"}
    async with running(plan, engines, max_wait_s=0.1) as fleet:
        monkeypatch.setattr(residents, "wait_for", lambda *_: Wait(0.05, is_known=False))
        with pytest.raises(
            Overloaded, match=r"c was not loaded within 0\.1 s; it is not known when"
        ) as raised:
            await leased(fleet, "c")
        assert raised.value.retry_after_s is None
        monkeypatch.setattr(residents, "wait_for", lambda *_: Wait(0.3, is_known=False))
        with pytest.raises(Overloaded, match=r"loaded in 0\.3 s at the earliest and 0\.1 s is the longest"):
            await leased(fleet, "c")


async def test_counts_go_on_over_loads(plan: FleetPlan) -> None:
    async with running(plan, engines := Engines()) as fleet:
        assert fleet.activity("c") is None
        engines.latest("a").stats = EngineStats(n_steps=3, n_generated_tokens=5, n_running=1)
        engines.latest("a")._metrics.endings["length"] = 2
        await soon(fleet.unload("a"))
        idle = fleet.activity("a")
        assert idle is not None
        assert (idle.pid, idle.totals.n_generated_tokens, idle.totals.n_running) == (None, 5, 0)
        await soon(fleet.load("a"))
        engines.latest("a").stats = EngineStats(n_steps=1, n_generated_tokens=2, n_running=1)
        engines.latest("a")._metrics.endings["length"] = 1
        now = fleet.activity("a")
        assert now is not None
        assert (now.totals.n_steps, now.totals.n_generated_tokens, now.totals.n_running) == (4, 7, 1)
        assert now.endings == {"length": 3}


async def test_requests_at_the_end(plan: FleetPlan) -> None:
    engines = Engines()
    engines.hold = {"c"}
    async with running(plan, engines) as fleet:
        waiting = asyncio.create_task(leased(fleet, "c"))
        await until(lambda: fleet.snapshot("c").state is not UNLOADED, "asked")
        await soon(fleet.drain(0.1))
        with pytest.raises(EngineDied, match="the server is shutting down"):
            await waiting
        with pytest.raises(EngineDied, match="the server is shutting down"):
            await leased(fleet, "a")
        with pytest.raises(EngineDied, match="the server is shutting down"):
            await soon(fleet.load("c"))
        with pytest.raises(EngineDied, match="the server is shutting down"):
            await fleet.apply(replace(plan, resident_at_start=("c",)))


async def test_orders_and_leases_that_are_held_at_the_end(plan: FleetPlan) -> None:
    """Nobody waits for an order for ever."""
    async with running(plan, Engines()) as fleet, fleet.lease("a"):
        order = asyncio.create_task(fleet.unload("a"))
        await until(lambda: states(fleet)["a"] is ModelState.UNLOADING, "a drain")
        await soon(fleet.stop())
        await soon(order)


async def test_a_step_that_fails_is_in_the_log(
    plan: FleetPlan, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engines = Engines()

    async def ended() -> None:
        raise RuntimeError("a bug")

    async with running(plan, engines) as fleet:
        monkeypatch.setattr(HeldEngine, "ended", lambda _: ended())
        await leased(fleet, "c")
        await until(lambda: "a task in the background failed" in caplog.text, "logged")
