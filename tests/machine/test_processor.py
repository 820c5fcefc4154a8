from pathlib import Path

import pytest

from tests.machine.test_host import lay_out
from vram_llm.machine.processor import instructions, numa_nodes, physical_cores

TOPOLOGY = "sys/devices/system/cpu/cpu{}/topology/{}"


def siblings(*lists: str, name: str = "core_cpus_list") -> dict[str, str]:
    """The kernel's files with the logical processors on the core of each logical processor, in order."""
    return {TOPOLOGY.format(cpu, name): text for cpu, text in enumerate(lists)}


@pytest.mark.parametrize(
    ("files", "cpus", "limit", "expected"),
    [
        (siblings("0,2", "1,3", "0,2", "1,3"), range(4), 4, 2),
        (siblings("0-1", "0-1", "2", "3"), range(4), 4, 3),  # one performance core, two efficiency cores
        (siblings("0,2", "1,3", "0,2", "1,3"), (0, 2), 2, 1),  # both threads of one core
        (siblings("0,2", "1,3", "0,2", "1,3"), range(4), 1, 1),  # a quota of one core
        (siblings("0", "1", name="thread_siblings_list"), range(2), 2, 2),  # before Linux 5.3
    ],
)
def test_physical_cores(
    tmp_path: Path, files: dict[str, str], cpus: range, limit: int, expected: int | None
) -> None:
    assert physical_cores(lay_out(tmp_path, files), cpus, limit) == expected


@pytest.mark.parametrize(("text", "expected"), [("0", 1), ("0-1", 2), ("0,2-3", 3), ("", None)])
def test_numa_nodes(tmp_path: Path, text: str, expected: int | None) -> None:
    assert numa_nodes(lay_out(tmp_path, {"sys/devices/system/node/has_memory": text})) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags : fpu avx f16c avx2 fma", ("avx", "avx2")),
        ("flags : avx avx2 avx512f avx512_vnni amx_int8", ("avx", "avx2", "avx512", "avx512_vnni", "amx")),
        ("Features : fp asimd asimddp i8mm sve", ("neon", "dotprod", "i8mm", "sve")),
        ("flags : fpu", ()),
        ("model name : A Processor", None),
    ],
)
def test_instructions(tmp_path: Path, line: str, expected: tuple[str, ...] | None) -> None:
    assert instructions(lay_out(tmp_path, {"proc/cpuinfo": line})) == expected
