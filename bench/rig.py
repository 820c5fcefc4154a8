"""A rig of unequal workers on one computer. Each is pinned to a core and limited to a share of it.

A cgroup of version 1 (`cpu.cfs_quota_us`) limits a worker, so this needs root on Linux. The quota is the
kernel's minimum, 1 ms, so that a slow worker is slow evenly. After a wait, a worker still runs at full speed
for a millisecond or two, so a layer should take a few milliseconds. The kernel may look at quotas only 250
times a second, unless something happens on the core: `busy` is such a thing. For plans that wait several
times a token, `slow_worker` is slow evenly.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from tests.workers import await_listening, free_ports

_CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
_QUOTA_US = 1000
_SHARES = 10_000  # more than other programs, less than the measuring program on the same core
_PATIENCE_S = 5.0
_BUSY = """
import os, sys, time
period_s, busy_s = 0.5e-3, 0.5e-3 * float(sys.argv[1])
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
while True:
    began = time.perf_counter()
    while time.perf_counter() < began + busy_s:
        pass
    time.sleep(max(began + period_s - time.perf_counter(), 0))
"""


@contextmanager
def worker(
    core: int, share: float = 1.0, host: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[str]:
    """The "host:port" of a worker with one thread on `core`, limited to `share` of it. The block ends it.

    `prefix` is put before its command line: `ip netns exec NAME`.
    """
    (port,) = free_ports(1)
    endpoint = f"{host}:{port}"
    command = [*prefix, sys.executable, "-m", "vram_llm", "worker", "--listen", endpoint, "--threads", "1"]
    command += ["--cache-size", "0", *(["--insecure"] if host != "127.0.0.1" else [])]
    with _group(f"vram-llm-bench-{port}", share) as group, ExitStack() as stack:
        process = stack.enter_context(_process(command, core, group))
        await_listening(endpoint, process)
        yield endpoint


@contextmanager
def slow_worker(core: int, factor: float) -> Iterator[str]:
    """The "host:port" of a worker on `core` that takes `factor` times as long (bench/slow_worker.py)."""
    (port,) = free_ports(1)
    endpoint = f"127.0.0.1:{port}"
    command = (sys.executable, "-m", "bench.slow_worker", str(port), str(factor))
    with _process(command, core, None) as process:
        await_listening(endpoint, process)
        yield endpoint


@contextmanager
def busy(core: int, share: float) -> Iterator[None]:
    """A program of real-time priority takes `share` of a core, every half a millisecond, within the block."""
    with _process((sys.executable, "-c", _BUSY, str(share)), core, None):
        yield


@contextmanager
def _process(command: Sequence[str], core: int, group: Path | None) -> Iterator["subprocess.Popen[bytes]"]:
    def settle() -> None:
        os.sched_setaffinity(0, {core})
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=settle
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _group(name: str, share: float) -> Iterator[Path | None]:
    """A cgroup that limits its processes together to `share` of a core; None for a whole core."""
    if share >= 1:
        yield None
        return
    group = _CPU_GROUPS / name
    try:
        group.mkdir()
    except OSError as error:
        raise SystemExit(
            f"a worker cannot be held down here ({error}): root and cgroup v1 are needed"
        ) from error
    try:
        (group / "cpu.cfs_period_us").write_text(str(round(_QUOTA_US / share)))
        (group / "cpu.cfs_quota_us").write_text(str(_QUOTA_US))
        (group / "cpu.shares").write_text(str(_SHARES))
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # the kernel still removes its ended process


def measure_on(core: int, *, niceness: int = -15) -> None:
    """Bind this process and its children to `core`, and print how busy other programs keep the cores.

    The default niceness puts it ahead of other programs. From now on SIGTERM raises SystemExit, so that
    blocks that hold workers, groups and links end them.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.sched_setaffinity(0, {core})
    os.nice(niceness)
    busy = psutil.cpu_percent(interval=3)
    print(f"other programs keep the cores {busy:.0f} % busy" + (": figures will be off" if busy > 10 else ""))


def require(*programs: str) -> None:
    """Raises SystemExit if a program is missing."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        raise SystemExit(f"{', '.join(missing)} missing: apt-get install iproute2")
