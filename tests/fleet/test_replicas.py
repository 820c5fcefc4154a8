"""Two real engines of one model as one engine: where requests go, deaths, moves, and facts of both."""

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import request, with_path
from tests.engine.harness import EXACT, engine_processes, tokens_of, write_f32
from tests.patience import soon, until
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import SamplingParams, TokenEvent
from vram_llm.errors import EngineDied, RequestCancelled, VramLLMError
from vram_llm.fleet import retries
from vram_llm.fleet.replica_speed import StepCostMeter
from vram_llm.fleet.replicas import ReplicaSet, make_engine
from vram_llm.planner.fleet.types import FleetModelSpec, FleetSpec
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import detection
from vram_llm.workflows.fleet_planning import plan_fleet

pytestmark = pytest.mark.process

PROMPTS = {f"r{i}": (1, 40 + i, 90 - i) for i in range(6)}


@pytest.fixture(scope="module")
def plan(plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """One slot, and a context that takes long to fill."""
    model = write_f32(tmp_path_factory.mktemp("replicas") / "f32.gguf")
    return plan_on_cpu(model, n_ctx=32768, parallel=1, **EXACT)


_observe = StepCostMeter.observe


@pytest.fixture(autouse=True)
def equal_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps cost what the plan predicts: a busy machine would make one replica seem slow."""
    monkeypatch.setattr(StepCostMeter, "observe", lambda meter, stats: None)


@pytest.fixture
async def pair(plan: Plan) -> AsyncIterator[ReplicaSet]:
    """Two loaded engines; none is left at the end."""
    replicas = make_engine((plan, plan), "tiny")
    assert isinstance(replicas, ReplicaSet)
    assert isinstance(make_engine((plan,), "tiny"), EngineClient)
    replicas.start()
    try:
        await soon(replicas.ready())
        for each in replicas.replicas:
            await soon(each.engine.ready())
        yield replicas
    finally:
        await soon(replicas.stop())
    assert engine_processes() == []


async def answer(pair: ReplicaSet, name: str, **options: Any) -> list[TokenEvent]:
    return [event async for event in pair.generate(request(name, **options))]


class Reader:
    """Reads a stream that would go on for very long."""

    def __init__(self, stream: AsyncGenerator[TokenEvent, None]) -> None:
        self.tokens: list[int] = []
        self.task = asyncio.create_task(self._read(stream))

    async def _read(self, stream: AsyncGenerator[TokenEvent, None]) -> None:
        async with aclosing(stream):
            async for event in stream:
                self.tokens += event.token_ids

    async def more(self, n: int = 1) -> None:
        """Wait for `n` more tokens."""
        n_wanted = len(self.tokens) + n
        await until(lambda: len(self.tokens) >= n_wanted or self.task.done(), "more tokens")
        assert len(self.tokens) >= n_wanted

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def begun(pair: ReplicaSet, name: str, **options: Any) -> Reader:
    reader = Reader(pair.generate(request(name, **{"max_tokens": None, **options})))
    await reader.more()
    return reader


def place(pair: ReplicaSet, name: str) -> int:
    return pair._requests.in_flight[name].replica


def process_of(pair: ReplicaSet, index: int) -> psutil.Process:
    (pid,) = (each.engine.activity.pid for each in pair.replicas[index : index + 1])
    assert pid is not None
    return psutil.Process(pid)


async def test_two_replicas_answer_as_one(pair: ReplicaSet) -> None:
    """Slots, facts, cached beginnings, questions and cancels."""
    assert pair.info is not None
    assert (pair.state, pair.detail, pair.info.parallel, pair.warnings) == (EngineState.READY, "", 2, ())
    one, other = await begun(pair, "one", max_tokens=30_000), await begun(pair, "other", prompt=(1, 4, 5))
    assert {place(pair, "one"), place(pair, "other")} == {0, 1}
    assert [status.n_running for status in pair.status()] == [1, 1]
    assert {r.id for r in pair.activity.requests} == {"one", "other"}
    assert pair.cancel("other", "")
    assert not pair.cancel("none", None)
    with pytest.raises(RequestCancelled):
        await soon(other.task)
    await one.close()
    long = tuple(range(2, 300))
    for tail in (3, 4, 5):
        *_, last = await soon(answer(pair, f"long {tail}", prompt=(1, *long, tail)))
    assert last.cached_tokens >= 290
    tokens = await soon(pair.tokenize("hi", add_special=True, parse_special=True))
    alone = pair.replicas[1].engine
    assert tokens == await soon(alone.tokenize("hi", add_special=True, parse_special=True))
    assert await soon(pair.pieces([1])) == [b"<s>"]
    assert pair.seconds_until_done(1, "") > 0
    assert sum(status.n_requests for status in pair.status()) == 5
    assert pair.activity.endings == {"abort": 1, "error": 1, "length": 3}
    for each in pair.replicas:
        _observe(each.meter, each.engine.stats)
    assert all(status.is_measured for status in pair.status())


async def test_a_death_costs_nothing_that_another_replica_can_answer(pair: ReplicaSet) -> None:
    """A stream goes on at the other one, and so do requests that wait; its own stream notices nothing."""
    alone = {n: tokens_of(await soon(answer(pair, n, prompt=p, max_tokens=40))) for n, p in PROMPTS.items()}
    kept = await begun(pair, "r0", prompt=PROMPTS["r0"], max_tokens=30_000)
    dying = place(pair, "r0")
    process = process_of(pair, dying)
    process.suspend()
    untouched = await begun(pair, "untouched", sampling=SamplingParams())
    assert place(pair, "untouched") != dying
    waiting = {
        name: asyncio.create_task(answer(pair, name, prompt=PROMPTS[name], max_tokens=40))
        for name in ("r1", "r2", "r3", "r4")
    }
    await until(lambda: len(pair._requests.in_flight) == 6, "all in flight")
    process.kill()
    await until(lambda: not pair.replicas[dying].is_ready, "seen to be dead")
    assert pair.state is EngineState.READY
    assert any("does not answer requests" in warning for warning in pair.warnings)
    await until(lambda: place(pair, "r0") != dying, "handed over")
    await untouched.more(5)
    await untouched.close()
    await until(lambda: len(kept.tokens) >= 40, "continued")
    await kept.close()
    assert kept.tokens[:40] == alone["r0"]
    assert {name: tokens_of(await soon(task)) for name, task in waiting.items()} == {
        name: alone[name] for name in waiting
    }
    await soon(pair.replicas[dying].engine.ready())
    assert (pair.warnings, pair.n_restarts) == ((), 1)
    assert pair.activity.endings == {"length": 6 + 4, "abort": 2}
    both = [await begun(pair, "a", max_tokens=30_000), await begun(pair, "b", prompt=(1, 2, 3))]
    assert {place(pair, "a"), place(pair, "b")} == {0, 1}, "the one that was started again takes requests"
    for stream in both:
        await stream.close()
    lost = await begun(pair, "lost", sampling=SamplingParams())
    process_of(pair, place(pair, "lost")).kill()
    with pytest.raises(EngineDied, match="begun this answer"):
        await soon(lost.task)
    assert len(tokens_of(await soon(answer(pair, "next")))) == 8


async def test_a_request_that_waits_goes_to_a_replica_that_gets_free(pair: ReplicaSet) -> None:
    streams = [await begun(pair, "a", max_tokens=30_000)]
    streams.append(await begun(pair, "b", prompt=(1, 2, 3), max_tokens=30_000))
    waits = asyncio.create_task(answer(pair, "waits", prompt=(1, 7, 7)))
    await until(lambda: any("waits" in each.waiting for each in pair.replicas), "it waits")
    here = place(pair, "waits")
    free = next(i for i, name in enumerate("ab") if place(pair, name) != here)
    await streams[free].close()
    assert len(tokens_of(await soon(waits))) == 8
    assert place(pair, "ab"[1 - free]) == here, "the stream there goes on"
    await streams[1 - free].close()


async def test_a_replica_that_cannot_load_is_tried_again(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_S", 0.01)
    later = tmp_path / "later.gguf"
    pair = ReplicaSet([EngineClient(with_path(plan, later), "t"), EngineClient(plan, "t")])
    pair.start()
    try:
        await soon(pair.ready())
        await until(lambda: pair.replicas[0].n_failures > 0, "refused")
        assert len(tokens_of(await soon(answer(pair, "r")))) == 8
        assert "does not answer requests" in pair.warnings[0]
        assert pair.failure is None
        shutil.copy(plan.model.path, later)
        await until(lambda: pair.replicas[0].is_ready, "loaded")
        assert pair.warnings == ()
    finally:
        await soon(pair.stop())
    await soon(pair.ended())


async def test_a_death_that_is_told_twice_has_one_retry(plan: Plan) -> None:
    """A second timer would start a second process beside the first."""
    dead, other = EngineClient(plan, "t"), EngineClient(plan, "t")
    pair = ReplicaSet([dead, other])
    dead._set_state(EngineState.DEAD, "it cannot load")
    first = pair.replicas[0].retry
    dead._set_state(EngineState.DEAD, "it cannot load, in other words")
    assert (pair.replicas[0].retry, pair.replicas[0].n_failures) == (first, 1)
    await soon(pair.stop())
    assert first is not None
    assert first.cancelled()
    assert pair.replicas[0].retry is None


async def test_replicas_that_all_cannot_load(plan: Plan, tmp_path: Path) -> None:
    pair = ReplicaSet([EngineClient(with_path(plan, tmp_path / "none.gguf"), "t")])
    pair.start()
    try:
        with pytest.raises(VramLLMError):
            await soon(pair.ready())
    finally:
        await soon(pair.stop())


async def test_planned_replicas_answer_from_workers_of_their_own(
    tiny_model: Path, workers: tuple[str, ...]
) -> None:
    wish = Workload(n_ctx=512, parallel=1, reserve_bytes=0)
    spec = FleetModelSpec(name="m", source=str(tiny_model), workload=wish, replicas=2)
    plan = plan_fleet(FleetSpec(models=(spec,)), detection.detect(rpc=workers[:2]))
    pair = make_engine([replica.plan for replica in plan["m"].replicas], "m")
    assert isinstance(pair, ReplicaSet)
    pair.start()
    try:
        for each in pair.replicas:
            await soon(each.engine.ready())
        answers = await soon(asyncio.gather(*(answer(pair, name, prompt=p) for name, p in PROMPTS.items())))
        assert [len(tokens_of(events)) for events in answers] == [8] * len(PROMPTS)
        assert [status.devices for status in pair.status()] in (
            [("RPC0",), ("RPC1",)], [("RPC1",), ("RPC0",)]
        )  # fmt: skip
        assert pair.info is not None
        assert {"RPC0", "RPC1"} <= pair.info.memory.keys()
    finally:
        await soon(pair.stop())
