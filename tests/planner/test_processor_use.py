"""Threads on chosen CPUs, priorities, NUMA, and locked weights."""

from dataclasses import replace
from pathlib import Path

import click
import pytest

from tests import zoo
from tests.cli.typed import typed
from vram_llm.errors import BadPlan
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Host, Machine
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.export.formats import emit, from_json, to_json
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.processor_use import AS_USUAL, Numa, ProcessorUse, ThreadPool
from vram_llm.planner.types import Workload
from vram_llm.units import GIB

SHORT = Workload(n_ctx=2048)


@pytest.fixture
def model(tmp_path: Path) -> ModelProfile:
    return profile(read_header(zoo.write(zoo.llama(), tmp_path / "8b.gguf")))


def _host(lockable_bytes: int | None) -> Host:
    return Host(
        name="test", cores=8, total_bytes=64 * GIB, available_bytes=60 * GIB, lockable_bytes=lockable_bytes
    )


@pytest.mark.parametrize(
    ("flags", "one", "several"),
    [
        ((), ThreadPool(cpus=(), strict=False, priority=0, poll=50), None),
        (("--cpu-mask", "0x5"), ThreadPool(cpus=(0, 2), strict=False, priority=0, poll=50), None),
        (("-C", "3", "-Cr", "6-7"), ThreadPool(cpus=(0, 1, 6, 7), strict=False, priority=0, poll=50), None),
        (
            ("--cpu-range", "0-1", "--cpu-strict", "1", "--prio", "2", "--poll", "0"),
            ThreadPool(cpus=(0, 1), strict=True, priority=2, poll=0), None,
        ),
        (
            ("-Cr", "0-1", "-Crb", "2-3", "--prio-batch", "-1", "--poll-batch", "100",
             "--cpu-strict-batch", "1"),
            ThreadPool(cpus=(0, 1), strict=False, priority=0, poll=50),
            ThreadPool(cpus=(2, 3), strict=True, priority=-1, poll=100),
        ),
    ],
)  # fmt: skip
def test_flags_make_pools(flags: tuple[str, ...], one: ThreadPool, several: ThreadPool | None) -> None:
    use = typed(*flags).processor
    assert use.pool == one
    assert use.batch_pool == (several or one)
    assert use.has_pools is bool(flags)


@pytest.mark.parametrize(
    "flags",
    [
        ("--cpu-mask", "xyz"), ("--cpu-mask", "0"), ("--cpu-mask", "f" * 129), ("--cpu-range", "7"),
        ("--cpu-range", "3-1"), ("--cpu-range", "0-512"), ("--prio", "4"), ("--poll", "101"),
        ("--numa", "mirror"),
    ],
)  # fmt: skip
def test_what_is_refused(flags: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        typed(*flags)


def test_plans_keep_it_and_exports_have_the_flags(model: ModelProfile) -> None:
    use = ProcessorUse(numa=Numa.ISOLATE, cpu_range=(0, 1, 2, 3), priority=1, cpu_strict_batch=True)
    plan = make_plan(model, what_if(["H100"]), replace(SHORT, processor=use), compares=False)
    assert plan.context.processor == use
    assert from_json(to_json(plan), "a plan") == plan
    words = emit(plan, "llama-server").replace("\\\n", " ").split()
    line = " ".join(words)
    assert "--numa isolate --cpu-mask 0xf --prio 1 --cpu-strict-batch 1" in line
    with pytest.raises(BadPlan, match="neither CPUs nor priorities"):
        emit(plan, "llama-cpp-python")


def test_plans_without_the_flags_are_as_before(model: ModelProfile) -> None:
    plan = make_plan(model, what_if(["H100"]), SHORT, compares=False)
    assert (plan.context.processor, plan.context.mlock) == (AS_USUAL, False)
    assert not any(flag in emit(plan, "llama-server") for flag in ("--cpu-", "--prio", "--poll", "--numa"))


@pytest.mark.parametrize(("use_mmap", "mode"), [(None, "mlock"), (False, "mlock"), (True, "mmap+mlock")])
def test_locked_weights_are_read_unless_mmap_is_asked_for(
    model: ModelProfile, use_mmap: bool | None, mode: str
) -> None:
    wish = replace(SHORT, mlock=True, use_mmap=use_mmap)
    plan = make_plan(model, Machine(devices=(), host=_host(None)), wish, compares=False)
    assert (plan.context.mlock, plan.context.use_mmap) == (True, use_mmap is True)
    assert f"--load-mode {mode}" in emit(plan, "llama-server")
    name = f"LLAMA_LOAD_MODE_{mode.replace('+', '_').upper()}"
    assert f"params.load_mode = C.{name}\n" in emit(plan, "llama-cpp-python")


def test_a_limit_of_locked_memory_is_heeded(model: ModelProfile) -> None:
    wish = replace(SHORT, mlock=True)
    weights_bytes = make_plan(
        model, Machine(devices=(), host=_host(None)), wish, compares=False
    ).estimate.host.weights_bytes
    make_plan(model, Machine(devices=(), host=_host(weights_bytes)), wish, compares=False)
    with pytest.raises(BadPlan, match=r"--mlock locks .* a process may lock .* raise RLIMIT_MEMLOCK"):
        make_plan(model, Machine(devices=(), host=_host(weights_bytes - 1)), wish, compares=False)


def test_with_cards_only_the_hosts_weights_are_locked(model: ModelProfile) -> None:
    machine = what_if(["H100"], _host(3 * GIB))
    plan = make_plan(model, machine, replace(SHORT, mlock=True), compares=False)
    assert plan.estimate.host.weights_bytes < 3 * GIB < model.total_bytes
    with pytest.raises(BadPlan, match="raise RLIMIT_MEMLOCK"):  # a mapped file may be locked whole
        make_plan(model, machine, replace(SHORT, mlock=True, use_mmap=True), compares=False)


def test_the_form_and_place_of_the_hosts_weights(model: ModelProfile) -> None:
    workload = typed("--no-repack", "--no-host")
    assert (workload.repack, workload.no_host) == (False, True)
    assert typed().repack is True
    plan = make_plan(model, what_if(["H100"]), replace(SHORT, repack=False, no_host=True), compares=False)
    assert (plan.context.repack, plan.context.no_host) == (False, True)
    assert {"--no-repack", "--no-host"} <= set(emit(plan, "llama-server").split())
    script = emit(plan, "llama-cpp-python")
    assert "params.use_extra_bufts = False\nparams.no_host = True\n" in script
    compile(script, "script", "exec")
