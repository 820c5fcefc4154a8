"""While others take memory, the engine sheds idle prefixes, then states on the host, then sequences."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import (
    Events,
    drain,
    engine_processes,
    loaded,
    make_request,
    run,
    starting,
    tokens_of,
)
from tests.engine.test_out_of_memory import answered, group
from tests.memory_group import MemoryGroup
from tests.patience import soon, until
from tests.workers import worker_process
from vram_llm.engine.loop import Loop
from vram_llm.engine.memory_guard import EVERY_S, MemoryGuard
from vram_llm.engine.memory_readings import reserves
from vram_llm.machine.host import available_bytes
from vram_llm.planner.types import HOST, Serving
from vram_llm.units import MIB

__all__ = ["group"]

RESERVE = 100 * MIB
PLENTY = {HOST: 1000 * MIB, "GPU0": 1000 * MIB}


@dataclass
class Computer:
    """Free memory that the test sets, and a clock that each look moves on."""

    free: dict[str, int]
    now_s: float = 0.0

    def clock(self) -> float:
        """Another look is due."""
        self.now_s += EVERY_S
        return self.now_s


@pytest.fixture
def computer() -> Computer:
    return Computer(PLENTY)


@pytest.fixture
def loop(plan_on_cpu: PlanOnCpu) -> Iterator[Loop]:
    serving = Serving(slots_ram_bytes=8 * MIB, cache_reuse=4)
    with loaded(plan_on_cpu(n_ctx=4096, parallel=4, serving=serving)) as model:
        loop = Loop(model)
        loop._cache.max_idle_cells = None
        yield loop


@pytest.fixture
def guard(loop: Loop, computer: Computer) -> MemoryGuard:
    guard = loop.memory_guard(readings=lambda: computer.free)
    return replace(guard, reserves={HOST: RESERVE, "GPU0": 4 * RESERVE}, clock=computer.clock)


def keep_a_state(loop: Loop) -> int:
    """Put a state on the host; its bytes."""
    run(loop, make_request("long", tuple(range(20, 300)) * 2, max_tokens=2))
    assert loop._cache.n_idle_cells > 500
    while loop._cache.evict():
        pass
    used = loop._cache.store.ram_used_bytes
    assert used > 0
    return used


def test_nothing_is_shed_while_memory_is_there(loop: Loop, guard: MemoryGuard) -> None:
    used = keep_a_state(loop)
    assert [guard.look() for _ in range(3)] == [None] * 3
    assert loop._cache.store.ram_used_bytes == used
    assert loop._cache.store.ram_bytes == 8 * MIB


def test_a_look_is_due_once_a_second(loop: Loop, computer: Computer) -> None:
    n_readings = 0

    def read() -> dict[str, int]:
        nonlocal n_readings
        n_readings += 1
        return computer.free

    guard = replace(loop.memory_guard(readings=read), clock=lambda: 7.0)
    n_readings = 0
    for _ in range(50):
        guard.look()
    assert n_readings == 1


def test_a_device_first_loses_idle_prefixes_then_sequences(
    loop: Loop, guard: MemoryGuard, computer: Computer
) -> None:
    run(loop, make_request("idle", tuple(range(20, 200)), max_tokens=2))
    requests = [make_request(name, (1, 50, 60 + i), max_tokens=40) for i, name in enumerate("abc")]
    for request in requests:
        loop.submit(request)
    events: Events = {name: [] for name in "abc"}
    for event in loop._full_step():
        events[event.id].append(event)
    assert (loop._cache.n_idle_cells > 100, loop.stats().n_running) == (True, 3)
    computer.free = {**PLENTY, "GPU0": 40 * MIB}
    free = "40.0 MiB are free on GPU0, where 50.0 MiB are to stay"
    assert [guard.look() for _ in range(2)] == [f"idle prefixes are dropped: {free}", None]
    assert (loop._cache.n_idle_cells, len(loop._scheduler.running)) == (0, 3)
    computer.free = {**PLENTY, "GPU0": 10 * MIB}
    free = free.replace("40.0", "10.0")
    said = [guard.look() for _ in range(4)]
    assert said[:2] == [f"no more than {n} of 4 sequences run at once: {free}" for n in (2, 1)]
    assert said[2:] == [None, None]
    assert loop._scheduler.shares.parallel == 1
    for event in loop._full_step():
        events[event.id].append(event)
    assert loop.stats().n_running == 1
    computer.free = PLENTY
    assert [guard.look() for _ in range(10)] == [None] * 10
    assert [guard.look() for _ in range(10)][-1] == ""
    assert loop._scheduler.shares.parallel == 4
    drain(loop, events)
    assert [len(tokens_of(events[name])) for name in "abc"] == [40, 40, 40]


def test_the_host_loses_as_many_states_as_are_missing(
    loop: Loop, guard: MemoryGuard, computer: Computer
) -> None:
    used = keep_a_state(loop)
    computer.free = {**PLENTY, HOST: 50 * MIB + used // 2}  # room for half of another such state
    assert guard.look() is None
    store = loop._cache.store
    assert (store.ram_used_bytes, store.ram_bytes) == (used, used + used // 2)
    computer.free = {**PLENTY, HOST: 50 * MIB - 1}
    assert str(guard.look()).endswith("50.0 MiB are free on the host, where 50.0 MiB are to stay")
    assert store.ram_used_bytes == 0
    computer.free = PLENTY
    assert guard.look() == ""
    assert store.ram_bytes == 8 * MIB


def test_the_plans_reserves(plan_on_cpu: PlanOnCpu) -> None:
    assert reserves(plan_on_cpu(reserve_bytes=64 * MIB)) == {HOST: 64 * MIB}
    assert reserves(replace(plan_on_cpu(), host=None)) == {}


def test_the_free_memory_of_this_computer_and_of_a_cgroup(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    folder = tmp_path / "sys/fs/cgroup/box"
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text("1000000\n")
    (folder / "memory.current").write_text("400000\n")
    (folder / "memory.stat").write_text("inactive_file 100000\nactive_file 0\n")
    assert available_bytes(tmp_path) == 700_000
    assert available_bytes() > 0


@pytest.mark.process
async def test_another_program_in_the_cgroup(plan_on_cpu: PlanOnCpu, group: MemoryGroup) -> None:
    plan = plan_on_cpu(n_ctx=4096, parallel=2, reserve_bytes=256 * MIB)
    async with starting() as start:
        engine = start(plan)
        await soon(engine.ready())
        (process,) = engine_processes()
        taken = 640 * MIB - process.memory_info().rss - 64 * MIB  # half of the reserve is 128 MiB
        eater = f"import time; data = b'1' * {taken}; time.sleep(600)"
        with worker_process([sys.executable, "-c", eater]):
            await until(lambda: bool(engine.warnings), "a warning")
            assert "are free on the host, where 128 MiB are to stay" in engine.warnings[0]
            assert await answered(engine)
        await until(lambda: not engine.warnings, "the end of the shortage")
        assert group.kills == 0
