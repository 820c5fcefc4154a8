"""A fleet of real engines: swaps while streams run, and an engine that is killed."""

import asyncio
import os
import signal

import gguf
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import request
from tests.engine.harness import EXACT, engine_processes, tokens_of
from tests.fleet.plans import fleet_plan, packed
from tests.patience import soon, until
from tools.random_model import write_llama
from vram_llm.engine import restart_policy
from vram_llm.engine.client import EngineClient
from vram_llm.engine.restart_policy import MAX_CRASHES
from vram_llm.fleet.manager import Fleet
from vram_llm.fleet.replicas import make_engine
from vram_llm.fleet.snapshots import ModelState
from vram_llm.planner.fleet.types import FleetPlan

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def plan(plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory) -> FleetPlan:
    """Models a, b and c with other weights each, of which two fit together."""
    folder = tmp_path_factory.mktemp("fleet")
    models = []
    for seed, name in enumerate("abc"):
        path = write_llama(folder / f"{name}.gguf", seed=seed, quant=gguf.GGMLQuantizationType.F32)
        models.append(packed(name, plan_on_cpu(path, n_ctx=4096, **EXACT), min_residency_s=0.2))
    return fleet_plan(*models, budget=2, at_start="ab")


async def answer(fleet: Fleet, name: str, i: int, n_tokens: int = 50) -> list[int]:
    async with fleet.lease(name) as engine:
        asked = request(f"{name}-{i}", max_tokens=n_tokens)
        return tokens_of([event async for event in engine.generate(asked)])


async def killed(engine: EngineClient, n_restarts: int) -> None:
    """Kill an engine once it serves, and wait until it is started for the `n_restarts`th time."""
    await engine.ready()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: engine.n_restarts == n_restarts, "noticed")


async def test_models_take_turns_and_no_answer_is_lost(
    plan: FleetPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor if an engine dies, however often."""
    monkeypatch.setattr(restart_policy, "_FIRST_DELAY_S", 0.01)
    fleet = Fleet(plan, make_engine=make_engine)
    await fleet.start()
    try:
        alone = {name: await soon(answer(fleet, name, 0)) for name in "abc"}
        assert len({tuple(tokens) for tokens in alone.values()}) == 3
        names = "cabbcaabcb"
        answers = await soon(asyncio.gather(*(answer(fleet, name, i + 1) for i, name in enumerate(names))))
        assert [tokens == alone[name] for name, tokens in zip(names, answers, strict=True)] == [True] * 10
        assert len(engine_processes()) == 2

        one, other = [model.name for model in fleet.snapshots() if model.state is ModelState.RESIDENT]
        engine = fleet.engine(one)
        assert isinstance(engine, EngineClient)
        assert engine.pid is not None
        stream = asyncio.create_task(answer(fleet, one, 99, 2000))  # greedy: another engine may continue it
        await until(lambda: fleet.snapshot(one).in_flight == 1, "a stream")
        os.kill(engine.pid, signal.SIGKILL)
        assert await soon(answer(fleet, other, 98)) == alone[other]
        assert len(await soon(stream)) == 2000
        assert engine.n_restarts == 1

        for n_restarts in range(2, 2 + MAX_CRASHES):  # one death more than a server of one model survives
            await soon(killed(engine, n_restarts))
        waiting = [asyncio.create_task(answer(fleet, one, i)) for i in (100, 101)]
        assert [await soon(each) for each in waiting] == [alone[one]] * 2  # no request was lost
        assert engine.n_restarts == 1 + MAX_CRASHES
        await soon(fleet.sleep())
        assert engine_processes() == []
    finally:
        await soon(fleet.stop())
