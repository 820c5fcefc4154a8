"""A server with its engine, and RPC workers, as processes that faults can be injected into."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.servers import running
from tests.memory_group import MemoryGroup
from tests.workers import await_listening, free_ports
from vram_llm.machine.json_store import DATA_DIR_VARIABLE

_ENGINE = "vram_llm.engine.worker"
PARALLEL = 2


@dataclass
class Worker:
    """An RPC worker that can be ended and started again at the same address."""

    endpoint: str
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, group: MemoryGroup | None = None, *, wait: bool = True) -> None:
        """Start it, in `group` if one is given, and wait until it listens."""
        command = [sys.executable, "-m", "vram_llm", "worker", "--listen", self.endpoint, "--threads", "1"]
        command = command if group is None else group.command(*command)
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait:
            await_listening(self.endpoint, self.process)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; wait for the end if it is one."""
        assert self.process is not None
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait()


@contextmanager
def worker() -> Iterator[Worker]:
    """A worker of one thread on this computer, ended with the block."""
    started = Worker(f"127.0.0.1:{free_ports(1)[0]}")
    started.start()
    try:
        yield started
    finally:
        if started.process is not None:
            started.process.kill()
            started.process.wait()


@dataclass
class Rig:
    """What a fault can be injected into. `folder` has the server's data, `model` its file."""

    port: int
    model: Path
    folder: Path
    server: psutil.Process
    group: MemoryGroup | None = None
    worker: Worker | None = None
    hit_at: float | None = None  # time.monotonic() when a process was hit, if that was later than the fault

    @property
    def engine(self) -> psutil.Process | None:
        """The running engine's process; None while there is none."""
        for child in self.server.children():
            try:
                if _ENGINE in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def kill_engine(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the engine, if there is one."""
        self.hit_at = time.monotonic()
        if (engine := self.engine) is not None:
            engine.send_signal(number)

    def limit_descriptors(self, n: int | None) -> None:
        """Allow the server no more than `n` descriptors; None: as many as it may have."""
        hard = resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.server.pid, resource.RLIMIT_NOFILE, (hard if n is None else n, hard))


@contextmanager
def serving(
    model: Path,
    folder: Path,
    *,
    group: MemoryGroup | None = None,
    lent: Worker | None = None,
    more: Sequence[str] = (),
) -> Iterator[Rig]:
    """A healthy server of `model`, on the processor or on a worker alone."""
    (port,) = free_ports(1)
    devices = [] if lent is None else ["--rpc", f"{lent.endpoint}@2GiB", "--tensor-split", "1"]
    command = [
        sys.executable, "-m", "vram_llm", "serve", str(model), "--port", str(port), "--n-ctx", "4096",
        "--parallel", str(PARALLEL), "--threads", str(os.cpu_count() or 1), "--reserve-mib", "0",
        *devices, *more,
    ]  # fmt: skip
    if group is not None:
        command = group.command(*command)
    environment = {**os.environ, DATA_DIR_VARIABLE: str(folder), "TMPDIR": str(folder)}
    log = folder.parent / f"{port}.log"
    with running(command, port, log, environment=environment):
        server = _server_on(port)
        yield Rig(port, model, folder, server, group, lent)


def _server_on(port: int) -> psutil.Process:
    for child in psutil.Process().children(recursive=True):
        words = child.cmdline()
        if "serve" in words and str(port) in words:
            return child
    raise SystemExit("the server has no process")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 4 MiB at `folder`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
