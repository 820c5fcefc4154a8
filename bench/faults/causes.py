"""The faults. Each is injected, lasts as long as it says, and is taken away again."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from bench.faults.rig import Rig
from tests.memory_group import memory_group
from vram_llm.units import GIB, MIB

Inject = Callable[[Rig], Awaitable[None]]  # returns once the cause is gone

_SHORT_S, _LONG_S = 5.0, 60.0
_GROWS = """
import time
kept = []
while True:
    kept.append(b"1" * 2**22)
    time.sleep(0.005)  # the program grows slowly
"""
_TOO_SMALL_BYTES = 96 * MIB  # for the worker's program and the model


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault by name, and what it needs."""

    name: str
    inject: Inject
    on_worker: bool = False
    in_group: bool = False
    small_disk: bool = False


def _signal(number: signal.Signals) -> Inject:
    async def inject(rig: Rig) -> None:
        rig.kill_engine(number)

    return inject


def _set_limit(rig: Rig, n_bytes: int) -> None:
    assert rig.group is not None
    name = "memory.limit_in_bytes" if rig.group.is_first_version else "memory.max"
    (rig.group.folder / name).write_text(str(n_bytes))


def _used_bytes(rig: Rig) -> int:
    """Memory in use that is not page cache."""
    assert rig.group is not None
    processes = (rig.server, rig.engine)
    return sum(process.memory_full_info().uss for process in processes if process is not None)


async def _no_memory_later(rig: Rig) -> None:
    """Another program of the same cgroup grows until the kernel ends the largest, the engine."""
    assert rig.group is not None
    assert rig.engine is not None
    Path(f"/proc/{rig.engine.pid}/oom_score_adj").write_text("500")  # the program may grow larger here
    _set_limit(rig, _used_bytes(rig) + 64 * MIB)
    before = rig.group.kills
    program = await asyncio.create_subprocess_exec(*rig.group.command(sys.executable, "-c", _GROWS))
    while rig.group.kills == before:
        await asyncio.sleep(0.01)  # until the kernel has ended one
    rig.hit_at = time.monotonic()
    program.kill()
    await program.wait()
    _set_limit(rig, 4 * GIB)


async def _no_memory_at_load(rig: Rig) -> None:
    """The engine dies, and for ten seconds there is too little memory for the next one."""
    engine = rig.engine
    assert engine is not None
    needed = engine.memory_full_info().uss
    rig.kill_engine()
    await asyncio.sleep(0.1)  # its memory is freed
    _set_limit(rig, _used_bytes(rig) + needed // 2)
    await asyncio.sleep(2 * _SHORT_S)  # the outage lasts
    _set_limit(rig, 4 * GIB)


def _worker_away(seconds: float) -> Inject:
    async def inject(rig: Rig) -> None:
        assert rig.worker is not None
        rig.worker.send(signal.SIGKILL)
        await asyncio.sleep(seconds)  # the outage lasts
        await asyncio.to_thread(rig.worker.start)

    return inject


async def _worker_silent(rig: Rig) -> None:
    """Its connections stay open, as if its computer had lost power."""
    assert rig.worker is not None
    rig.worker.send(signal.SIGSTOP)
    await asyncio.sleep(4 * _SHORT_S)  # the outage lasts
    rig.worker.send(signal.SIGCONT)


async def _worker_with_less_memory(rig: Rig) -> None:
    """It is started again in a cgroup too small for the model; after 20 s it has all its memory again."""
    assert rig.worker is not None
    rig.worker.send(signal.SIGKILL)
    with memory_group(_TOO_SMALL_BYTES) as group:
        until = time.monotonic() + 4 * _SHORT_S
        while time.monotonic() < until:  # as a service manager does, for the kernel ends it
            if rig.worker.process is None or rig.worker.process.poll() is not None:
                rig.worker.start(group, wait=False)
            await asyncio.sleep(0.1)  # between two looks
        rig.worker.send(signal.SIGKILL)
    await asyncio.to_thread(rig.worker.start)


async def _truncated(rig: Rig) -> None:
    """The engine may end by itself, as it reads weights that are no longer there; else it is killed."""
    whole, first = rig.model.read_bytes(), rig.engine
    os.truncate(rig.model, len(whole) // 2)
    for _ in range(200):  # a second, in which the engine reads the missing pages
        await asyncio.sleep(0.005)  # between two looks
        if rig.engine != first:
            rig.hit_at = time.monotonic()
            break
    else:
        rig.kill_engine()
    await asyncio.sleep(_SHORT_S)  # the outage lasts
    with rig.model.open("r+b") as file:
        file.write(whole)


async def _replaced(rig: Rig) -> None:
    other = rig.model.with_name("other.gguf")
    os.replace(other, rig.model)
    rig.kill_engine()


async def _deleted(rig: Rig) -> None:
    away = rig.model.with_suffix(".away")
    rig.model.rename(away)
    rig.kill_engine()
    await asyncio.sleep(_SHORT_S)  # the outage lasts
    away.rename(rig.model)


async def _disk_full(rig: Rig) -> None:
    filler = rig.folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            pass
    rig.kill_engine()
    await asyncio.sleep(_SHORT_S)  # the outage lasts
    filler.unlink()


async def _no_descriptors(rig: Rig) -> None:
    rig.limit_descriptors(rig.server.num_fds() - 1)
    rig.kill_engine()
    await asyncio.sleep(_SHORT_S)  # the outage lasts
    rig.limit_descriptors(None)


FAULTS = (
    Fault("engine: kill -9", _signal(signal.SIGKILL)),
    Fault("engine: SEGV", _signal(signal.SIGSEGV)),
    Fault("engine: ABRT", _signal(signal.SIGABRT)),
    Fault("engine: BUS", _signal(signal.SIGBUS)),
    Fault("engine: STOP", _signal(signal.SIGSTOP)),
    Fault("out of memory while serving", _no_memory_later, in_group=True),
    Fault("kill -9, out of memory at load for 10 s", _no_memory_at_load, in_group=True),
    Fault("worker killed, started again", _worker_away(0.0), on_worker=True),
    Fault("worker away for 60 s", _worker_away(_LONG_S), on_worker=True),
    Fault("worker silent for 20 s", _worker_silent, on_worker=True),
    Fault("worker with less memory for 20 s", _worker_with_less_memory, on_worker=True),
    Fault("file truncated, whole after 6 s", _truncated),
    Fault("file replaced by another model, kill -9", _replaced),
    Fault("file deleted, kill -9, back after 5 s", _deleted),
    Fault("disk full, kill -9", _disk_full, small_disk=True),
    Fault("no descriptors for 5 s, kill -9", _no_descriptors),
)
