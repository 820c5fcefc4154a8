"""llama.cpp's threads on chosen CPUs, and locked weights, in a real load."""

import dataclasses
import os
import sys
from pathlib import Path

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import loaded
from tests.zoo.heads import HEADS
from tests.zoo.loadable import with_vocabulary, write_loadable
from vram_llm.errors import BadPlan
from vram_llm.llama.bindings import has_amx_kernels
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.params import ModelParams
from vram_llm.planner.processor_use import Numa, ProcessorUse
from vram_llm.planner.types import Plan

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="affinity is read as Linux has it"),
]


def _with(plan: Plan, use: ProcessorUse, **context: object) -> Plan:
    changed = dataclasses.replace(plan.context, processor=use, **context)  # type: ignore[arg-type]  # any field
    return dataclasses.replace(plan, context=changed)


def _decode(model: LoadedModel, tokens: list[int]) -> list[float]:
    model.batch.clear()
    row = model.batch.add(tokens, 0, 0, n_outputs=1)
    assert model.decode() == 0
    model.wait()
    logits: list[float] = model.logits(row).tolist()
    model.forget(0)
    return logits


@pytest.fixture
def same_affinity() -> object:
    """llama.cpp moves the thread that computes, which is the test's own."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("same_affinity")
@pytest.mark.parametrize("n_threads_batch", [None, 1])
def test_threads_run_where_the_mask_says(plan_on_cpu: PlanOnCpu, n_threads_batch: int | None) -> None:
    cpu = max(os.sched_getaffinity(0))
    plan = plan_on_cpu()
    usual = LoadedModel(plan)
    expected = [_decode(usual, [1, 30, 31]), _decode(usual, [1])]
    usual.close()
    use = ProcessorUse(cpu_range=(cpu,), poll=0, numa=Numa.DISTRIBUTE)
    model = LoadedModel(_with(plan, use, n_threads=2, n_threads_batch=n_threads_batch))
    try:
        found = [_decode(model, [1, 30, 31]), _decode(model, [1])]
        assert os.sched_getaffinity(0) == {cpu}
    finally:
        model.close()
    for logits, wanted in zip(found, expected, strict=True):
        assert logits == pytest.approx(wanted, abs=0.05)


@pytest.mark.usefixtures("same_affinity")
def test_an_mtp_head_computes_on_the_same_cpus(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    everywhere = os.sched_getaffinity(0)
    cpu = max(everywhere)
    path = write_loadable(with_vocabulary(HEADS["glm4_moe"]()), tmp_path / "model.gguf", "F32")
    plan = _with(plan_on_cpu(path), ProcessorUse(cpu_range=(cpu,), poll=0), n_threads=2, n_mtp=3)
    with loaded(plan) as model:
        head = model.mtp_head
        assert head is not None
        _decode(model, [1, 30, 31])
        os.sched_setaffinity(0, everywhere)
        head.batch.clear()
        head.batch.add([30, 31], 0, 0, n_outputs=1)
        head.batch.hidden[:2] = 0
        assert head.decode() == 0
        assert os.sched_getaffinity(0) == {cpu}


def test_cpus_that_are_not_here_are_refused(plan_on_cpu: PlanOnCpu) -> None:
    absent = next(cpu for cpu in reversed(range(512)) if cpu not in os.sched_getaffinity(0))
    with pytest.raises(BadPlan, match="no CPU of the mask 0x"):
        LoadedModel(_with(plan_on_cpu(), ProcessorUse(cpu_mask=(absent,))))


def test_a_priority_is_had_or_refused(plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with pytest.raises(BadPlan, match="--prio 2 is not allowed here: give the process CAP_SYS_NICE"):
        LoadedModel(_with(plan_on_cpu(), ProcessorUse(priority=2)))


def test_locked_weights(plan_on_cpu: PlanOnCpu) -> None:
    plan = plan_on_cpu(mlock=True)
    weights_bytes = plan.estimate.host.weights_bytes
    limit = plan.host.lockable_bytes if plan.host is not None else 0
    if limit is not None and limit < weights_bytes:
        pytest.skip("this system lets no process lock so much")
    before = _locked_kib()
    model = LoadedModel(plan)
    try:
        assert (_locked_kib() - before) * 1024 >= weights_bytes
    finally:
        model.close()


def _locked_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmLck")).split()[1])


def test_repacked_weights_are_switched_off(plan_on_cpu: PlanOnCpu) -> None:
    for repack, no_host in ((True, False), (False, True)):
        plan = plan_on_cpu(repack=repack, no_host=no_host, use_mmap=False)
        struct = ModelParams(plan.placement, plan.context, []).struct
        assert struct.no_host is no_host
        assert struct.use_extra_bufts is (repack and not has_amx_kernels())
        model = LoadedModel(plan)
        held_bytes = model.memory_use()["host"].weights_bytes
        model.close()
        assert held_bytes == plan.estimate.host.weights_bytes
