import os
from pathlib import Path

import pytest

from scripts.build_facts import available_bytes, cpu_flags, usable_cores


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_cpu_flags_are_the_first_processors(tmp_path: Path) -> None:
    _write(
        tmp_path, "proc/cpuinfo", "processor\t: 0\nvmx flags\t: no\nflags\t\t: fpu avx2\n\nflags\t: other\n"
    )
    assert cpu_flags(tmp_path) == {"fpu", "avx2"}


def test_a_machine_without_cpuinfo_has_no_flags(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path) == frozenset()


@pytest.mark.parametrize(
    ("cpu_max", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8)]
)
def test_a_cgroups_quota_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_max: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    _write(tmp_path, "sys/fs/cgroup/cpu.max", cpu_max)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", "5", 1000 * 1024), ("600000", "100000", 500000), ("", "", 1000 * 1024)],
)
def test_available_memory_is_the_smallest_of_what_is_told(
    tmp_path: Path, limit: str, used: str, expected: int
) -> None:
    _write(tmp_path, "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    1000 kB\n")
    _write(tmp_path, "sys/fs/cgroup/memory.max", limit)
    _write(tmp_path, "sys/fs/cgroup/memory.current", used)
    assert available_bytes(tmp_path) == expected


def test_unknown_memory_is_none(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None
