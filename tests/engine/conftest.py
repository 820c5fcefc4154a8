"""Engines with a process of their own, and the check that none outlives its test."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import Start, engine_processes, soon, starting
from vram_llm.engine.client import EngineClient


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a client; at the end of the test it is stopped and no process is left."""
    async with starting() as start:
        yield start
    assert engine_processes() == []


@pytest.fixture
async def engine(start: Start, plan_on_cpu: PlanOnCpu) -> EngineClient:
    """A loaded engine of two slots and a context that takes long to fill."""
    engine = start(plan_on_cpu(n_ctx=32768, parallel=2))
    await soon(engine.ready())
    return engine
