import os
import re
from pathlib import Path

import psutil
import pytest

from vram_llm.machine import host
from vram_llm.units import GIB, MIB

UNLIMITED_V1 = "9223372036854771712"


def lay_out(root: Path, files: dict[str, str]) -> Path:
    """Write files below `root`: the text of each by its relative path. Returns `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def stat(prefix: str, inactive: int, active: int) -> str:
    """The text of memory.stat."""
    return f"anon 5\n{prefix}inactive_file {inactive}\n{prefix}active_file {active}\nslab 7"


MEMORY = {
    "no cgroups": ({}, []),
    "v2 without a limit": (
        {
            "proc/self/cgroup": "0::/a",
            "sys/fs/cgroup/a/memory.max": "max",
            "sys/fs/cgroup/a/memory.current": "9",
        },
        [],
    ),
    "v2, the page cache is free": (
        {
            "proc/self/cgroup": "0::/a",
            "sys/fs/cgroup/a/memory.max": str(8 * GIB),
            "sys/fs/cgroup/a/memory.current": str(5 * GIB),
            "sys/fs/cgroup/a/memory.stat": stat("", GIB, 2 * GIB),
        },
        [(8 * GIB, 6 * GIB)],
    ),
    "v2, own limit and the parent's": (
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/memory.max": str(8 * GIB),
            "sys/fs/cgroup/a/b/memory.current": str(GIB),
            "sys/fs/cgroup/a/memory.max": str(4 * GIB),
            "sys/fs/cgroup/a/memory.current": str(3 * GIB),
        },
        [(8 * GIB, 7 * GIB), (4 * GIB, GIB)],
    ),
    "v2, slowed down before it is full": (
        {
            "proc/self/cgroup": "0::/a",
            "sys/fs/cgroup/a/memory.max": "max",
            "sys/fs/cgroup/a/memory.high": str(6 * GIB),
            "sys/fs/cgroup/a/memory.current": str(GIB),
        },
        [(6 * GIB, 5 * GIB)],
    ),
    "v2, over its limit": (
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": str(GIB),
            "sys/fs/cgroup/memory.current": str(2 * GIB),
        },
        [(GIB, 0)],
    ),
    "v2, outside the cgroup namespace": (
        {
            "proc/self/cgroup": "0::/../other",
            "sys/fs/cgroup/memory.max": str(GIB),
            "sys/fs/cgroup/memory.current": "0",
        },
        [(GIB, GIB)],
    ),
    "v1, next to an empty v2": (
        {
            "proc/self/cgroup": "4:memory:/job\n1:cpu,cpuacct:/\n0::/",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/job/memory.stat": stat("total_", 256 * MIB, 256 * MIB),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "0",
        },
        [(2 * GIB, 2 * GIB - GIB + 512 * MIB), (int(UNLIMITED_V1), int(UNLIMITED_V1))],
    ),
    "v1 in a container, whose path is the host's": (
        {
            "proc/self/cgroup": "4:memory:/docker/abc",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(256 * MIB),
        },
        [(GIB, 768 * MIB)],
    ),
}


@pytest.mark.parametrize("case", MEMORY)
def test_memory_limits(tmp_path: Path, case: str) -> None:
    files, expected = MEMORY[case]
    assert host.memory_limits(lay_out(tmp_path, files)) == expected


CPU = {
    "no cgroups": ({}, []),
    "v2 without a quota": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, []),
    "v2, three and a half cores": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "350000 100000"},
        [3],
    ),
    "v2, half a core": ({"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, [1]),
    "v1, mounted under both controllers": (
        {
            "proc/self/cgroup": "1:cpu,cpuacct:/a",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
        },
        [4],
    ),
    "v1 without a quota": (
        {
            "proc/self/cgroup": "1:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        [],
    ),
}


@pytest.mark.parametrize("case", CPU)
def test_cpu_limits(tmp_path: Path, case: str) -> None:
    files, expected = CPU[case]
    assert host.cpu_limits(lay_out(tmp_path, files)) == expected


def test_the_tightest_limit_applies(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/memory.max": str(64 * MIB),
        "sys/fs/cgroup/memory.current": str(16 * MIB),
        "sys/fs/cgroup/cpu.max": "100000 100000",
        "proc/cpuinfo": "processor : 0\nmodel name\t: A Processor @ 3 GHz",
    }
    read = host.read_host(lay_out(tmp_path, files))
    assert (read.total_bytes, read.available_bytes) == (64 * MIB, 48 * MIB)
    assert (read.cores, read.cpu_name) == (1, "A Processor @ 3 GHz")
    assert (read.memory_limit_bytes, read.in_use_bytes) == (64 * MIB, 16 * MIB)


_LIMITS = (
    "Limit            Soft Limit    Hard Limit    Units\nMax locked memory      65536    {hard}    bytes"
)
LOCKABLE = {
    "by the hard limit": ("CapEff:\t0000000000000000", "8388608", 8 * MIB),
    "without a limit": ("CapEff:\t0000000000000000", "unlimited", None),
    "as root": ("CapEff:\t000001ffffffffff", "8388608", None),
    "as root without the capability": ("CapEff:\t000001ffffffbfff", "0", 0),
}


@pytest.mark.parametrize("case", LOCKABLE)
def test_memory_that_may_be_locked(tmp_path: Path, case: str) -> None:
    status, hard, expected = LOCKABLE[case]
    files = {"proc/self/status": f"Name:\tx\n{status}", "proc/self/limits": _LIMITS.format(hard=hard)}
    assert host.lockable_bytes(lay_out(tmp_path, files)) == expected


def test_nothing_may_be_locked_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert host.lockable_bytes(tmp_path) == 0


def test_this_computer_is_read() -> None:
    read = host.read_host()
    assert read.name
    assert 1 <= read.cores <= (psutil.cpu_count() or 1)
    assert 0 < read.available_bytes <= read.total_bytes <= psutil.virtual_memory().total
    assert read.physical_cores is None or 1 <= read.physical_cores <= read.cores
    assert not read.what_if


def test_the_largest_process_is_named() -> None:
    """There is at least one other process: this one's parent."""
    sentence = host.largest_process()
    assert sentence is not None
    assert re.fullmatch(r".+ \(pid \d+\) holds [\d.,]+ [KMGT]iB", sentence)
    assert f"(pid {os.getpid()})" not in sentence
