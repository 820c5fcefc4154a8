"""The client when its engine process dies, hangs, or is stopped: nothing is left behind."""

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import answer, begun, exhaust, refusal_of, request, with_path
from tests.engine.harness import Start, engine_processes, tokens_of
from tests.patience import PATIENCE_S, soon, until
from vram_llm.engine import supervisor
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import FinishReason
from vram_llm.errors import (
    EngineDied,
    ModelRefused,
)

pytestmark = pytest.mark.process

# -- deaths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
async def test_a_death_costs_the_requests_in_flight_and_no_more(engine: EngineClient, number: int) -> None:
    (process,) = engine_processes()
    n_open = psutil.Process().num_fds()
    stream = await begun(engine, "lost")
    waiting = asyncio.create_task(answer(engine, "lost too", max_tokens=None))
    await asyncio.sleep(0)  # the second request is submitted at its task's first turn
    process.send_signal(number)
    with pytest.raises(
        EngineDied, match=f"the engine process died .*signal {int(number)}.*; the request was lost"
    ):
        await soon(exhaust(stream))
    with pytest.raises(EngineDied):
        await soon(waiting)
    assert engine.state is EngineState.LOADING
    with pytest.raises(EngineDied, match="the engine is not ready: restarting after"):
        await answer(engine, "too early")
    await soon(engine.ready())
    assert len(tokens_of(await soon(answer(engine, "new")))) == 8
    (again,) = engine_processes()
    assert again.pid != process.pid
    assert psutil.Process().num_fds() == n_open


async def test_an_engine_that_keeps_dying_is_given_up(
    start: Start, plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_RESTARTS", 1)
    engine = start(plan_on_cpu())
    for _ in range(2):
        await soon(engine.ready())
        (process,) = engine_processes()
        stream = await begun(engine, "r")
        process.kill()
        with pytest.raises(EngineDied):
            await soon(exhaust(stream))
    assert isinstance(await refusal_of(engine), EngineDied)
    with pytest.raises(EngineDied, match="the engine is not ready"):
        await answer(engine, "late")


async def test_a_model_that_is_gone_at_the_restart_is_reported(
    start: Start, plan_on_cpu: PlanOnCpu, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_RESTARTS", 1)
    path = tmp_path / "moved.gguf"
    path.write_bytes(tiny_model.read_bytes())
    engine = start(with_path(plan_on_cpu(), path))
    await soon(engine.ready())
    path.unlink()
    engine_processes()[0].kill()
    await until(lambda: engine.state is not EngineState.READY, "seen to be dead")
    assert isinstance(await refusal_of(engine), ModelRefused)


async def test_a_log_line_too_long_to_keep_does_not_end_the_reading(plan_on_cpu: PlanOnCpu) -> None:
    engine, reader = EngineClient(plan_on_cpu(), "tiny"), asyncio.StreamReader(limit=64)
    reader.feed_data(b"first\n" + b"x" * 1000 + b"\nlast\n")
    reader.feed_eof()
    process = cast(asyncio.subprocess.Process, SimpleNamespace(stderr=reader))
    await soon(engine._keep_stderr(process))
    assert list(engine._stderr) == ["first", "last"]


# -- ends ----------------------------------------------------------------------------------------


async def test_stop_before_the_process_is_up(start: Start, plan_on_cpu: PlanOnCpu) -> None:
    engine = start(plan_on_cpu())
    await soon(engine.stop())
    assert engine.state is EngineState.DEAD
    with pytest.raises(EngineDied, match="stopped"):
        await engine.ready()


async def test_stop_without_a_start(plan_on_cpu: PlanOnCpu) -> None:
    engine = EngineClient(plan_on_cpu(), "tiny")
    await soon(engine.stop())
    assert engine.state is EngineState.DEAD


async def test_a_stop_while_the_process_starts_is_obeyed(
    start: Start, plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process finds plan and stop together; it must end by itself, not be killed for it."""
    monkeypatch.setattr(supervisor, "_STOP_GRACE_S", 10 * PATIENCE_S)
    engine = start(plan_on_cpu())
    await until(lambda: engine_processes() != [], "a process")
    await soon(engine.stop())
    assert engine_processes() == []


def _set_if(condition: bool, event: asyncio.Event) -> None:
    if condition:
        event.set()


async def test_a_stop_while_the_model_loads_is_obeyed(
    start: Start, plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_STOP_GRACE_S", 10 * PATIENCE_S)
    loading = asyncio.Event()
    engine = start(plan_on_cpu(), on_state=lambda client: _set_if(client.load_fraction > 0, loading))
    await soon(loading.wait())
    await soon(engine.stop())
    assert engine_processes() == []


async def test_a_stop_while_it_generates(engine: EngineClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_STOP_GRACE_S", 10 * PATIENCE_S)
    stream = await begun(engine, "long")
    stopping = asyncio.create_task(engine.stop())
    with pytest.raises(EngineDied, match="shutting down"):
        await soon(exhaust(stream))
    await soon(stopping)
    assert engine_processes() == []


async def test_a_process_that_hangs_is_killed(engine: EngineClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_STOP_GRACE_S", 0.2)
    engine_processes()[0].suspend()
    await soon(engine.stop())
    assert engine_processes() == []


async def test_stop_while_it_waits_to_restart(engine: EngineClient) -> None:
    stream = await begun(engine, "lost")
    engine_processes()[0].kill()
    with pytest.raises(EngineDied):
        await soon(exhaust(stream))
    await soon(engine.stop())
    assert engine_processes() == []


async def test_drain_lets_requests_finish_and_takes_no_new_ones(engine: EngineClient) -> None:
    stream = engine.generate(request("r", max_tokens=200))
    await soon(anext(stream))
    draining = asyncio.create_task(engine.drain(PATIENCE_S))
    await asyncio.sleep(0)  # drain begins at its task's first turn
    assert engine.state is EngineState.STOPPING
    with pytest.raises(EngineDied, match="the engine is not ready: shutting down"):
        await answer(engine, "new")
    events = [event async for event in stream]
    assert (len(tokens_of(events)), events[-1].finish_reason) == (199, FinishReason.LENGTH)
    await soon(draining)
    assert engine.state is EngineState.STOPPING


async def test_drain_ends_requests_that_take_too_long(engine: EngineClient) -> None:
    stream = await begun(engine, "long")
    draining = asyncio.create_task(engine.drain(0.0))
    with pytest.raises(EngineDied, match="the server is shutting down"):
        await soon(exhaust(stream))
    await soon(draining)
