"""An engine that runs out of memory is followed by one with a smaller plan; log and /health say so."""

import resource
import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import engine_processes, make_request, starting
from tests.memory_group import MemoryGroup, memory_group
from tests.patience import soon, until
from tests.planner.saved import local, remote, saved_plan
from tests.workers import await_listening, free_ports, worker_process
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.out_of_memory import oom_kills, ran_out
from vram_llm.engine.plan_source import PlanSource
from vram_llm.errors import DoesNotFit, ModelRefused
from vram_llm.llama import rpc
from vram_llm.machine import overhead_store
from vram_llm.machine.types import Host, Machine
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.smaller_plan import PlanReductions, workload_with
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import HOST, Plan, Workload
from vram_llm.units import GIB, MIB
from vram_llm.workflows import detection, planning, replanning

CARDS = [
    local(0, ggml_name="CUDA0", driver_version="580"),
    local(1, ggml_name="CUDA1"),
    remote(0, "127.0.0.1:50052", ggml_name="RPC0"),
]
PLAN = saved_plan(CARDS, [2, 2, 2])


@pytest.mark.parametrize(
    ("failure", "new_kills", "expected"),
    [
        ("llama.cpp will not load m.gguf: unable to allocate CUDA1 buffer", 0, (True, "GPU1")),
        (
            "llama.cpp will not load m.gguf: unable to allocate RPC0[127.0.0.1:50052] buffer",
            0,
            (True, "RPC0"),
        ),
        ("llama.cpp will not load m.gguf: unable to allocate CPU_REPACK buffer", 0, (True, HOST)),
        ("will not make a context of 8192 tokens: failed to allocate buffer for kv cache", 0, (True, None)),
        ("engine process ended with signal 6: CUDA error: out of memory", 0, (True, None)),
        ("the engine ran out of memory on the host", 0, (True, HOST)),
        ("engine process ended with signal 6: std::bad_alloc", 0, (True, HOST)),
        ("engine process ended with signal 9", 1, (True, HOST)),
        ("engine process ended with signal 9", 0, (False, None)),
        ("engine process ended with signal 11", 1, (False, None)),
        ("llama.cpp will not load m.gguf: unknown model architecture", 0, (False, None)),
    ],
)
def test_last_words(failure: str, new_kills: int, expected: tuple[bool, str | None]) -> None:
    assert ran_out(failure, PLAN, new_kills) == expected


def test_the_kernels_count(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    assert oom_kills(tmp_path) == 0
    (tmp_path / "proc/vmstat").write_text("pgfault 7\noom_kill 12\n")
    assert oom_kills(tmp_path) == 12


def test_the_overhead_that_was_seen_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAM_LLM_DATA_DIR", str(tmp_path))
    use = replace(PLAN.estimate.devices[0], overhead_bytes=300 * MIB, total_bytes=4 * GIB)
    plan = replace(PLAN, estimate=replace(PLAN.estimate, devices=(use, *PLAN.estimate.devices[1:])))
    host = Host(name="box", cores=1, total_bytes=GIB, available_bytes=GIB)
    for free, expected in ((5 * GIB, GIB + 300 * MIB), (4 * GIB, None), (3 * GIB, None), (20 * GIB, None)):
        machine = Machine(devices=(replace(CARDS[0], free_bytes=free),), host=host)
        assert replanning.overhead_seen(plan, machine, "GPU0") == expected
    assert replanning.overhead_seen(plan, machine, "RPC0") is None

    def planned(model: str, machine: Machine, workload: Workload) -> Plan:
        overheads = [device.overhead.value for device in machine.devices if device.overhead is not None]
        assert (overheads, workload.n_ctx) == ([GIB + 300 * MIB], 4096)
        return plan

    monkeypatch.setattr(planning, "plan", planned)
    here = Machine(devices=(replace(CARDS[0], free_bytes=5 * GIB),), host=host)
    again = replanning.Replanner("m", lambda: overhead_store.with_overheads(here), Workload())
    assert again(plan, PlanReductions(n_ctx=4096, short="GPU0")) is plan


# -- real engines -------------------------------------------------------------------------------


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryGroup]:
    """A cgroup that engines run in."""
    try:
        made = memory_group(640 * MIB)
        group = made.__enter__()
    except OSError as error:
        pytest.skip(f"this process may not make a cgroup with a memory limit: {error}")
    enter = tmp_path / "python"
    enter.write_text(f'#!/bin/sh\necho $$ > {group.folder}/cgroup.procs\nexec {sys.executable} "$@"\n')
    enter.chmod(enter.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(enter))
    yield group
    made.__exit__(None, None, None)


@pytest.mark.process
async def test_the_kernel_ends_a_load_that_takes_too_much(
    plan_on_cpu: PlanOnCpu, group: MemoryGroup, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_on_cpu(n_ctx=2**21, parallel=1)
    assert plan.estimate.host.context_bytes > 640 * MIB
    async with starting() as start:
        engine = start(plan)
        info = await soon(engine.ready())
        assert (group.kills >= 1, info.n_ctx < 2**21) == (True, True)
        [told] = engine.warnings
        smaller = f"{info.n_ctx:,} tokens of context instead of 2,097,152"
        assert told == f"the host ran out of memory: the plan now has {smaller}"
        assert told in caplog.messages
        assert await answered(engine)


@pytest.mark.process
async def test_the_kernel_ends_an_engine_that_serves(plan_on_cpu: PlanOnCpu, group: MemoryGroup) -> None:
    plan = plan_on_cpu(n_ctx=2**19, parallel=1)
    async with starting() as start:
        engine = start(plan)
        await soon(engine.ready())
        assert not engine.warnings
        (process,) = engine_processes()
        process.suspend()
        eater = [sys.executable, "-c", "import time; data = b'1' * 600_000_000; time.sleep(600)"]
        with worker_process(eater):
            await until(lambda: engine.state is not EngineState.READY, "the end of the engine")
        await soon(engine.ready())
        assert "no host memory for idle conversations" in "".join(engine.warnings)
        assert engine.plan.serving.slots_ram_bytes == 0
        assert await answered(engine)


@pytest.mark.process
async def test_a_worker_without_room(tiny_model: Path, host: Host) -> None:
    """The worker may have no more address space than it needs for half of the context."""
    (port,) = free_ports(1)
    endpoint = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "vram_llm", "worker", "--listen", endpoint, "--threads", "1"]
    with worker_process(command) as process:
        await_listening(endpoint, process)
        devices = rpc.devices((endpoint,))
        wish = Workload(n_ctx=2**20, parallel=1, tensor_split=TensorSplit((1,)), reserve_bytes=0)

        def plan_of(reductions: PlanReductions) -> Plan:
            machine = Machine(devices=devices, host=host)
            return make_plan(detection.analyze(str(tiny_model)), machine, workload_with(wish, reductions))

        plan = plan_of(PlanReductions())
        use = plan.estimate.devices[0]
        assert use.context_bytes > 256 * MIB
        limit = psutil.Process(process.pid).memory_info().vms + 3 * use.context_bytes // 4
        resource.prlimit(process.pid, resource.RLIMIT_AS, (limit, limit))
        async with starting() as start:
            engine = start(plan, replan=lambda _, reductions: plan_of(reductions))
            await soon(engine.ready())
            [told] = engine.warnings
            assert "ran out of memory: the plan now has" in told
            assert endpoint in told or "RPC0" in told
            assert await answered(engine)


async def test_more_is_kept_free_only_as_far_as_a_plan_fits() -> None:
    spares = []

    def replan(plan: Plan, reductions: PlanReductions) -> Plan:
        spares.append(reductions.spare_bytes // MIB)
        if reductions.spare_bytes > GIB:
            raise DoesNotFit("no room")
        return plan

    plans = PlanSource(replace(PLAN, context=replace(PLAN.context, n_ctx=512, n_ubatch=128)), replan)
    failure = ModelRefused("failed to allocate buffer for kv cache")
    for _ in range(4):
        assert plans.note_failure(failure, had_loaded=False)
        await plans.for_load()
    assert spares == [512, 1024, 2048, 1024, 4096, 2048, 1024]
    assert not plans.note_failure(failure, had_loaded=False)
    await plans.for_load()
    assert len(spares) == 7


async def test_what_cannot_be_smaller_is_refused_as_before(plan_on_cpu: PlanOnCpu) -> None:
    engine = EngineClient(plan_on_cpu(n_ctx=512, parallel=1, n_ubatch=128), "tiny")
    refused = ModelRefused("unable to allocate CPU buffer")
    assert engine._end(refused) is refused


async def answered(engine: EngineClient) -> bool:
    """Whether a request gets its three tokens."""
    events = [event async for event in engine.generate(make_request("a", max_tokens=3))]
    return sum(len(event.token_ids) for event in events) == 3
