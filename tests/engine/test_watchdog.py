"""When an engine counts as hanging, and that a hanging one is replaced."""

import asyncio
import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import answer, replaced_worker, request
from tests.engine.harness import Start, engine_processes, tokens_of
from tests.patience import soon, until
from tests.workers import await_listening, free_ports, worker_process
from vram_llm.engine import supervisor, watchdog
from vram_llm.engine.client import EngineClient
from vram_llm.engine.heartbeat import Heartbeat, Pulse
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.plan_source import PlanSource
from vram_llm.engine.watchdog import LOAD_LIMIT_S, Watchdog, step_limit_s
from vram_llm.llama import rpc
from vram_llm.machine.types import Host, Machine, Source
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import SpeedEstimate, Workload
from vram_llm.workflows import detection

SLOW = SpeedEstimate(
    basis=Source.MEASURED, depth=0, step_s=2.0, tokens_per_s=0.5, streams=1, streams_step_s=None,
    streams_tokens_per_s=None, streams_basis=None, prompt_tokens=512, prompt_s=64, prompt_tokens_per_s=8,
    prompt_stage_s=None, prompt_basis=Source.MEASURED, devices=(),
)  # fmt: skip

# -- policy --------------------------------------------------------------------------------------


def looks(dog: Watchdog, seconds: float, *pulses: Pulse, is_loading: bool = False) -> str | None:
    """The watchdog's findings if the pulses come in turn, one a second, for so long."""
    for i in range(round(seconds)):
        if (why := dog.look(pulses[i % len(pulses)], float(i), is_loading=is_loading)) is not None:
            return why
    return None


def test_an_engine_that_does_nothing_is_found_within_the_limit() -> None:
    dog = Watchdog(SLOW, 30)
    assert looks(dog, 29, Pulse(7, 0, 900)) is None
    assert dog.look(Pulse(7, 0, 900), 29.0) == (
        "the engine hung between two steps: it did nothing for 29.0 s"
    )


def test_one_that_works_has_ten_times_as_long() -> None:
    dog = Watchdog(None, 30)
    pulses = [Pulse(7, 64, work) for work in range(1000)]
    assert looks(dog, 299, *pulses) is None
    assert dog.look(Pulse(7, 64, 2000), 299.0) == (
        "the engine hung in a batch of 64 tokens, which took longer than 299.0 s"
    )


def test_the_work_of_other_threads_does_not_hide_a_hang() -> None:
    dog = Watchdog(None, 10)
    pulses = [Pulse(7, 64, 900 + second // 2) for second in range(100)]
    assert "it did nothing for 9.0 s" in (looks(dog, 100, *pulses) or "")


def test_a_beat_begins_anew() -> None:
    assert looks(Watchdog(None, 5), 1000, *(Pulse(i // 4, 0, 0) for i in range(1000))) is None


def test_a_load_has_its_own_limit() -> None:
    dog = Watchdog(None, 10)
    assert looks(dog, LOAD_LIMIT_S - 1, Pulse(7, 0, 0), is_loading=True) is None
    assert "while it loaded" in (dog.look(Pulse(7, 0, 0), LOAD_LIMIT_S - 1, is_loading=True) or "")


def test_time_in_which_the_server_was_stopped_does_not_count() -> None:
    dog = Watchdog(None, 30)
    for now_s in (0.0, 1.0, 10_000.0, 20_000.0):
        assert dog.look(Pulse(7, 0, 0), now_s) is None


@pytest.mark.parametrize(
    ("speed", "n_rows", "limit_s"),
    [
        (SLOW, 0, 10.0),
        (SLOW, 1, 20 * (2 + 1 / 8)),
        (SLOW, 512, 20 * (2 + 64)),
        (None, 0, 10.0),
        (None, 512, 20 * (3 + 512 * 0.05)),
    ],
)
def test_the_limit_follows_the_predicted_step(
    speed: SpeedEstimate | None, n_rows: int, limit_s: float
) -> None:
    assert step_limit_s(speed, n_rows) == pytest.approx(limit_s)


def test_a_pulse_is_read_from_the_shared_page() -> None:
    ours = Heartbeat()
    theirs = Heartbeat(os.dup(ours.fd))
    theirs.beat()
    theirs.note_batch(512)
    first = ours.pulse(os.getpid())
    assert first[:2] == (2, 512)
    while ours.pulse(os.getpid()).work == first.work:  # until a hundredth of a second is computed
        pass
    theirs.close()
    ours.close()


# -- with an engine ------------------------------------------------------------------------------

_ENDLESS = """
import os, sys

del sys.argv[1:3]  # -m vram_llm.engine.worker
from vram_llm.engine import worker
from vram_llm.engine.batch_runner import BatchRunner

run = BatchRunner.run

def endless(self, chunks):
    while any(chunk.sequence.id == "endless" for chunk in chunks):
        pass
    return run(self, chunks)

BatchRunner.run = endless
os._exit(worker.main())
"""


@pytest.mark.process
async def test_a_stopped_engine_is_replaced(start: Start, plan_on_cpu: PlanOnCpu) -> None:
    engine = start(plan_on_cpu(), watchdog_s=2)
    await soon(engine.ready())
    (process,) = engine_processes()
    process.suspend()
    waiting = asyncio.create_task(answer(engine, "r"))
    await until(lambda: engine.state is EngineState.LOADING, "seen to hang")
    assert "the engine hung between two steps: it did nothing for " in engine.detail
    assert len(tokens_of(await soon(waiting))) == 8
    assert engine_processes() != [process]


@pytest.mark.process
async def test_looks_that_fail_are_logged_and_repeated(
    start: Start, plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [OSError(errno.EMFILE, "Too many open files") for _ in range(2)]
    pulse, watch = Heartbeat.pulse, PlanSource.watch

    def failing_pulse(heartbeat: Heartbeat, pid: int) -> Pulse:
        if failures:
            raise failures.pop()
        return pulse(heartbeat, pid)

    n_watches = 0

    async def failing_watch(plans: PlanSource) -> None:
        nonlocal n_watches
        n_watches += 1
        if n_watches == 1:
            raise OSError(errno.EIO, "Input/output error")
        await watch(plans)

    monkeypatch.setattr(supervisor, "_WATCH_AGAIN_S", 0.0)
    monkeypatch.setattr(Heartbeat, "pulse", failing_pulse)
    monkeypatch.setattr(PlanSource, "watch", failing_watch)
    engine = start(plan_on_cpu(), watchdog_s=2)
    await soon(engine.ready())
    await until(lambda: not failures and n_watches == 2, "watches that began again")
    assert caplog.messages.count("a watch over the engine failed; it begins again") == 2
    (process,) = engine_processes()
    process.suspend()
    await until(lambda: engine.state is EngineState.LOADING, "seen to hang")
    await soon(engine.ready())


@pytest.mark.process
async def test_a_step_without_end_is_ended(
    start: Start, plan_on_cpu: PlanOnCpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_BUSY_FACTOR", 1)
    monkeypatch.setattr(sys, "executable", replaced_worker(tmp_path, _ENDLESS))
    engine = start(plan_on_cpu(), watchdog_s=2)
    await soon(engine.ready())
    stream = engine.generate(request("endless"))
    waiting = asyncio.create_task(anext(stream))
    await until(lambda: "longer than" in engine.detail, "seen to hang")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(tokens_of(await soon(answer(engine, "r")))) == 8


@pytest.mark.process
async def test_a_worker_that_no_longer_answers(start: Start, tiny_model: Path, host: Host) -> None:
    """Its connection stays open, as if its computer had lost power."""
    endpoint = f"127.0.0.1:{free_ports(1)[0]}"
    command = [sys.executable, "-m", "vram_llm", "worker", "--listen", endpoint, "--threads", "1"]
    with worker_process(command) as worker:
        await_listening(endpoint, worker)
        plan = make_plan(
            detection.analyze(str(tiny_model)),
            Machine(devices=rpc.devices((endpoint,)), host=host),
            Workload(n_ctx=4096, tensor_split=TensorSplit((1,)), reserve_bytes=0),
        )
        engine: EngineClient = start(plan, watchdog_s=2)
        await soon(engine.ready())
        worker.send_signal(signal.SIGSTOP)
        waiting = asyncio.create_task(answer(engine, "r"))
        await until(lambda: "did nothing for" in engine.detail, "seen to hang")
        assert "in a batch of " in engine.detail
    with worker_process(command):
        assert len(tokens_of(await soon(waiting))) == 8
        await soon(engine.stop())
