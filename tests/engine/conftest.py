"""Engines with a process of their own, and the check that none outlives its test."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import Start, engine_processes, soon
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.planner.types import Plan


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a client; at the end of the test it is stopped and no process is left."""
    clients: list[EngineClient] = []

    def begin(plan: Plan, **options: Any) -> EngineClient:
        clients.append(EngineClient(plan, "tiny", **options))
        clients[-1].start()
        return clients[-1]

    yield begin
    for engine in clients:
        await soon(engine.stop())
        assert engine.state is EngineState.DEAD
    assert engine_processes() == []


@pytest.fixture
async def engine(start: Start, plan_on_cpu: PlanOnCpu) -> EngineClient:
    """A loaded engine of two slots and a context that takes long to fill."""
    engine = start(plan_on_cpu(n_ctx=32768, parallel=2))
    await soon(engine.ready())
    return engine
