"""The computer itself: memory, cores and name, within the limits of this process's cgroups.

All paths are relative to `root`, so that tests can make the files of another computer.
"""

import contextlib
import os
import platform
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vram_llm.machine import memory_modules, processor
from vram_llm.machine.system_files import read_text
from vram_llm.machine.types import Host
from vram_llm.units import format_bytes

ROOT = Path("/")
_CGROUPS = "sys/fs/cgroup"
_CAP_IPC_LOCK = 14


def read_host(root: Path = ROOT) -> Host:
    """The host as this process may use it: its RAM and cores, within the tightest cgroup limits."""
    import psutil

    ram = psutil.virtual_memory()
    cgroup_limits = memory_limits(root)
    limits = [(ram.total, ram.available), *cgroup_limits]
    tightest_bytes = min((limit for limit, _ in cgroup_limits), default=ram.total)
    cores = min([len(_cpus()), *cpu_limits(root)])
    return Host(
        name=platform.node() or "localhost",
        cores=cores,
        total_bytes=min(limit for limit, _ in limits),
        available_bytes=min(free for _, free in limits),
        cpu_name=cpu_name(root),
        bandwidth_bytes_per_s=memory_modules.memory_bandwidth(root),
        physical_cores=processor.physical_cores(root, _cpus(), cores),
        numa_nodes=processor.numa_nodes(root),
        instructions=processor.instructions(root),
        memory_kind=memory_modules.memory_kind(root),
        memory_limit_bytes=tightest_bytes if tightest_bytes < ram.total else None,
        lockable_bytes=lockable_bytes(root),
    )


def available_bytes(root: Path = ROOT) -> int:
    """The memory that this process may still take, within the tightest cgroup limit."""
    import psutil

    return min(psutil.virtual_memory().available, *(free for _, free in memory_limits(root)), 2**63)


def swap_bytes() -> tuple[int, int]:
    """The size of the swap space, and the bytes of it in use by all programs."""
    import psutil

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # containers may hide the rates, which are not used
        swap = psutil.swap_memory()
    return swap.total, swap.used


@dataclass(frozen=True, slots=True)
class HostReading:
    """The host's memory at one moment, and that of one process; None: there is no such process."""

    total_bytes: int
    available_bytes: int
    swap_used_bytes: int
    process_bytes: int | None  # in memory, mapped files among them


def read_host_memory(pid: int | None, root: Path = ROOT) -> HostReading:
    """The memory of the host, within the tightest cgroup limit, and of process `pid`."""
    import psutil

    ram, limits = psutil.virtual_memory(), memory_limits(root)
    process_bytes = None
    if pid is not None:
        with contextlib.suppress(psutil.Error):
            process_bytes = psutil.Process(pid).memory_info().rss
    return HostReading(
        total_bytes=min(ram.total, *(limit for limit, _ in limits), 2**63),
        available_bytes=min(ram.available, *(free for _, free in limits), 2**63),
        swap_used_bytes=swap_bytes()[1],
        process_bytes=process_bytes,
    )


def largest_process() -> str | None:
    """The other process with the most memory, as "NAME (pid N) holds 3.10 GiB"; None if none is visible."""
    import psutil

    processes = [
        (process.info["memory_info"].rss, process.info["name"], process.pid)
        for process in psutil.process_iter(["name", "memory_info"])
        if process.pid != os.getpid() and process.info["memory_info"] is not None
    ]
    if not processes:
        return None
    n_bytes, name, pid = max(processes)
    return f"{name} (pid {pid}) holds {format_bytes(n_bytes)}"


def memory_limits(root: Path = ROOT) -> list[tuple[int, int]]:
    """(limit, free bytes below it) of this process's cgroup and its parents, as far as they have a limit.

    The page cache counts as free, because the kernel drops it before it kills a process. Above `memory.high`
    no process is killed, but each is slowed down until it stands still.
    """
    names = ("memory.current", "inactive_file", "active_file")
    limits = ("memory.max", "memory.high")
    v2 = [
        _limit_and_free_bytes(folder, limit, *names)
        for folder in _cgroup_folders(root, None)
        for limit in limits
    ]
    names = ("memory.usage_in_bytes", "total_inactive_file", "total_active_file")
    v1 = [
        _limit_and_free_bytes(folder, "memory.limit_in_bytes", *names)
        for folder in _cgroup_folders(root, "memory")
    ]
    return [limit for limit in v2 + v1 if limit is not None]


def lockable_bytes(root: Path = ROOT) -> int | None:
    """Bytes that this process may lock in memory (RLIMIT_MEMLOCK, up to the hard limit); None: no limit.

    The capability CAP_IPC_LOCK, which root has, lifts the limit. 0 if the system does not tell.
    """
    for line in read_text(root / "proc/self/status").splitlines():
        name, _, mask = line.partition(":")
        if name == "CapEff" and int(mask, 16) >> _CAP_IPC_LOCK & 1:
            return None
    for line in read_text(root / "proc/self/limits").splitlines():
        if line.startswith("Max locked memory"):
            hard = line.split()[4]
            return None if hard == "unlimited" else _number(hard) or 0
    return 0


def cpu_limits(root: Path = ROOT) -> list[int]:
    """The whole cores, at least 1, that each CPU quota of this process's cgroups and their parents allows."""
    v2 = [read_text(folder / "cpu.max").partition(" ") for folder in _cgroup_folders(root, None)]
    quotas = [(quota, period) for quota, _, period in v2]
    for folder in _cgroup_folders(root, "cpu"):
        quotas += [(read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us"))]
    return [cores for quota, period in quotas if (cores := _cores(quota, period)) is not None]


def cpu_name(root: Path = ROOT) -> str | None:
    """The processor's name, from /proc/cpuinfo or from Python's platform module; None if both have none."""
    for line in read_text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or None


def _cpus() -> frozenset[int]:
    """The numbers of the logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _cgroup_folders(root: Path, controller: str | None) -> Iterator[Path]:
    """The folders of this process's cgroup and its parents, up to the mount.

    `controller` is one of cgroup version 1; None means version 2. In a container without a cgroup namespace,
    the kernel gives the path on the host, and only the mount itself exists. A folder that does not exist has
    no limit.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller is None and controllers == "":
            mounts = [root / _CGROUPS, root / _CGROUPS / "unified"]
        elif controller is not None and controller in controllers.split(","):
            mounts = [root / _CGROUPS / controller, root / _CGROUPS / controllers]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        if ".." in group.parts:  # the process sits outside its cgroup namespace
            group = PurePosixPath()
        for mount in dict.fromkeys(mounts):
            yield from (mount / part for part in (group, *group.parents))


def _limit_and_free_bytes(folder: Path, limit: str, usage: str, *cache: str) -> tuple[int, int] | None:
    """The memory limit of a cgroup and the free bytes below it; None without a limit.

    `limit` and `usage` are names of files, `cache` those of rows of memory.stat that count page cache.
    """
    limit_bytes, used_bytes = _number(read_text(folder / limit)), _number(read_text(folder / usage))
    if limit_bytes is None or used_bytes is None:
        return None
    pairs = (line.partition(" ") for line in read_text(folder / "memory.stat").splitlines())
    stat = {key: _number(value) or 0 for key, _, value in pairs}
    without_cache_bytes = max(0, used_bytes - sum(stat.get(name, 0) for name in cache))
    return limit_bytes, max(0, limit_bytes - without_cache_bytes)


def _cores(quota: str, period: str) -> int | None:
    quota_us, period_us = _number(quota), _number(period)
    return max(1, quota_us // period_us) if quota_us and period_us else None


def _number(text: str) -> int | None:
    """The count in `text`; None for "max", "-1" and anything that is not a number."""
    return int(text) if text.strip().isdecimal() else None
