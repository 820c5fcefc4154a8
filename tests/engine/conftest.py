"""A clock for loops in this process; engines in processes of their own, of which none outlives its test."""

from collections.abc import AsyncIterator
from itertools import count

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import Start, engine_processes, starting
from tests.patience import soon
from vram_llm.engine import batch_runner, stats_recorder, steady_decode
from vram_llm.engine.client import EngineClient


@pytest.fixture(autouse=True)
def even_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of a loop takes a millisecond. By these times a loop decides how many rows of prompts and
    how many drafts share a batch: on a busy machine it would decide otherwise.
    """
    milliseconds = count()
    for module in (batch_runner, stats_recorder, steady_decode):
        monkeypatch.setattr(module, "perf_counter", lambda: next(milliseconds) / 1000)


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
