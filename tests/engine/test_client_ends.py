"""The client when its engine process dies, hangs, or is stopped: nothing is left behind."""

import asyncio
import errno
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import answer, begun, exhaust, refusal_of, replaced_worker, request, with_path
from tests.engine.harness import EXACT, Start, engine_processes, tokens_of, write_f32
from tests.patience import PATIENCE_S, soon, until
from tests.workers import await_listening, free_ports, worker_process
from vram_llm.engine import client, supervisor
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import FinishReason
from vram_llm.engine.restart_policy import RestartPolicy
from vram_llm.errors import (
    EngineDied,
    Overloaded,
    PoisonRequest,
    RequestTimeout,
)
from vram_llm.llama import rpc
from vram_llm.machine.types import Host, Machine
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import Workload
from vram_llm.workflows import detection

pytestmark = pytest.mark.process

# -- deaths --------------------------------------------------------------------------------------


_POISONED = """
import os, sys

del sys.argv[1:3]  # -m vram_llm.engine.worker
from vram_llm.engine import worker
from vram_llm.engine.batch_runner import BatchRunner

run = BatchRunner.run

def poisoned(self, chunks):
    if any(chunk.sequence.id == "poison" for chunk in chunks):
        os.abort()
    return run(self, chunks)

BatchRunner.run = poisoned
os._exit(worker.main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
async def test_a_death_costs_the_answer_that_cannot_be_continued_and_no_other(
    start: Start, plan_on_cpu: PlanOnCpu, tmp_path: Path, number: int
) -> None:
    """Two slots: one stream is lost and one continues; two requests wait, and one comes too late."""
    engine = start(plan_on_cpu(write_f32(tmp_path / "f32.gguf"), n_ctx=32768, parallel=2, **EXACT))
    await soon(engine.ready())
    prompts = {"kept": (1, 40, 90), "waits": (1, 41, 89), "waits too": (1, 42, 88), "late": (1, 43, 87)}
    alone = {n: tokens_of(await soon(answer(engine, n, prompt=p, max_tokens=40))) for n, p in prompts.items()}
    (process,) = engine_processes()
    n_open = psutil.Process().num_fds()
    lost = await begun(engine, "lost")
    kept = engine.generate(request("kept", prompt=prompts["kept"], max_tokens=None))
    tokens = tokens_of([await soon(anext(kept))])
    waiting = [
        asyncio.create_task(answer(engine, n, prompt=prompts[n], max_tokens=40))
        for n in ("waits", "waits too")
    ]
    await asyncio.sleep(0)  # each task submits at its first turn
    process.send_signal(number)
    with pytest.raises(
        EngineDied, match=f"the engine process died .*signal {int(number)}.* begun this answer"
    ):
        await soon(exhaust(lost))
    assert engine.state is EngineState.LOADING
    late = await soon(answer(engine, "late", prompt=prompts["late"], max_tokens=40))
    assert tokens_of(late) == alone["late"]
    (again,) = engine_processes()
    assert again.pid != process.pid
    while len(tokens) < 40:
        tokens += (await soon(anext(kept))).token_ids
    assert tokens[:40] == alone["kept"]
    await kept.aclose()
    assert [tokens_of(await soon(task)) for task in waiting] == [alone["waits"], alone["waits too"]]
    assert psutil.Process().num_fds() == n_open


async def test_a_whole_answer_is_continued_whatever_its_sampling(engine: EngineClient) -> None:
    """Nobody has seen its beginning."""
    stream = await begun(engine, "r", whole=True, max_tokens=3000)
    engine_processes()[0].kill()
    events = [event async for event in stream]
    assert len(tokens_of(events)) == 2999
    assert (events[-1].finish_reason, events[-1].completion_tokens) == (FinishReason.LENGTH, 3000)


async def test_questions_are_asked_again(engine: EngineClient) -> None:
    expected = await soon(engine.tokenize("hello", add_special=True, parse_special=True))
    (process,) = engine_processes()
    process.suspend()
    tokens = asyncio.create_task(engine.tokenize("hello", add_special=True, parse_special=True))
    pieces = asyncio.create_task(engine.pieces([1]))
    await asyncio.sleep(0)  # each task asks at its first turn
    process.kill()
    assert await soon(tokens) == expected
    assert await soon(pieces) == [b"<s>"]


async def test_a_request_that_is_given_up_during_the_restart_is_not_computed(engine: EngineClient) -> None:
    stream = engine.generate(request("dropped", max_tokens=None))
    taken = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)  # it submits at its task's first turn
    (process,) = engine_processes()
    process.kill()
    await until(lambda: engine.state is not EngineState.READY, "seen to be dead")
    taken.cancel()
    await asyncio.gather(taken, return_exceptions=True)
    await stream.aclose()  # given up too if its first token came before the kill
    assert len(tokens_of(await soon(answer(engine, "r")))) == 8
    assert engine.stats.n_generated_tokens <= 8


async def test_an_answer_outlasts_the_absence_of_a_worker(start: Start, tiny_model: Path, host: Host) -> None:
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    command = [sys.executable, "-m", "vram_llm", "worker", "--listen", endpoint, "--threads", "1"]
    with worker_process(command) as worker:
        await_listening(endpoint, worker)
        plan = make_plan(
            detection.analyze(str(tiny_model)),
            Machine(devices=rpc.devices((endpoint,)), host=host),
            Workload(n_ctx=32768, tensor_split=TensorSplit((1,)), reserve_bytes=0),
        )
        engine = start(plan)
        await soon(engine.ready())
        stream = await begun(engine, "r", whole=True)
        worker.kill()
        await until(lambda: f"no worker answers at {endpoint}" in engine.detail, "a load without the worker")
    with worker_process(command):
        await soon(engine.ready())
        assert len([await soon(anext(stream)) for _ in range(50)]) == 50
        await stream.aclose()
        await soon(engine.stop())


async def test_the_request_that_engines_die_of_is_refused_and_the_others_go_on(
    start: Start, plan_on_cpu: PlanOnCpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", replaced_worker(tmp_path, _POISONED))
    engine = start(plan_on_cpu(parallel=4, n_ctx=4096))
    await soon(engine.ready())
    names = ["a", "b", "poison", "c", "d", "e"]
    tasks = [asyncio.create_task(answer(engine, name, max_tokens=40)) for name in names]
    outcomes = dict(zip(names, await soon(asyncio.gather(*tasks, return_exceptions=True)), strict=True))
    refusal = outcomes.pop("poison")
    assert isinstance(refusal, PoisonRequest)
    assert "died 2 times while it computed this request" in str(refusal)
    for events in outcomes.values():
        assert not isinstance(events, BaseException), events
        assert len(tokens_of(events)) == 40
    assert engine._restarts.n_crashes == 2


async def test_an_engine_that_keeps_dying_is_given_up(start: Start, plan_on_cpu: PlanOnCpu) -> None:
    engine = start(plan_on_cpu(), restarts=RestartPolicy(max_crashes=1))
    for _ in range(2):
        await soon(engine.ready())
        (process,) = engine_processes()
        stream = await begun(engine, "r")
        process.kill()
        with pytest.raises(EngineDied):
            await soon(exhaust(stream))
    refusal = await refusal_of(engine)
    assert isinstance(refusal, EngineDied)
    assert "died 2 times within 10 minutes while it served, at last: engine process ended" in str(refusal)
    with pytest.raises(EngineDied, match="the engine is not ready"):
        await answer(engine, "late")


async def test_requests_that_arrive_while_the_file_is_away_are_answered_once_it_is_back(
    start: Start, plan_on_cpu: PlanOnCpu, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_WAITING", 0)
    path, away = tmp_path / "moved.gguf", tmp_path / "away.gguf"
    path.write_bytes(tiny_model.read_bytes())
    crashes = RestartPolicy(max_crashes=1)  # failed loads are none
    engine = start(with_path(plan_on_cpu(parallel=2), path), restarts=crashes)
    await soon(engine.ready())
    path.rename(away)
    engine_processes()[0].kill()
    await until(lambda: engine._restarts.n_attempts > 3, "three failed loads")
    assert "will not load moved.gguf" in engine.detail
    with pytest.raises(RequestTimeout):
        await soon(answer(engine, "in a hurry", max_time_s=0.1))
    early = [asyncio.create_task(answer(engine, name)) for name in ("a", "b")]
    await asyncio.sleep(0)  # each submits at its task's first turn
    question = asyncio.create_task(engine.tokenize("hi", add_special=True, parse_special=True))
    with pytest.raises(Overloaded, match="2 requests are in flight and 2 is the most") as full:
        await soon(answer(engine, "c"))
    assert (full.value.retry_after_s or 0) >= 1
    away.rename(path)
    assert await soon(question)
    assert [len(tokens_of(await soon(task))) for task in early] == [8, 8]


async def test_an_engine_that_no_descriptor_is_left_for_is_started_later(
    engine: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, limit = asyncio.create_subprocess_exec, iter((errno.EMFILE, errno.EAGAIN))

    async def scarce(*args: Any, **options: Any) -> asyncio.subprocess.Process:
        if (number := next(limit, None)) is not None:
            raise OSError(number, os.strerror(number))
        return await real(*args, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", scarce)
    n_open = psutil.Process().num_fds()
    engine_processes()[0].kill()
    await until(lambda: "could not be started: [Errno 24]" in engine.detail, "a start that failed")
    assert len(tokens_of(await soon(answer(engine, "r")))) == 8
    assert psutil.Process().num_fds() == n_open


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
