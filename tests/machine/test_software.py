"""The system, its packages and limits, from made-up files of the kernel."""

from pathlib import Path

import pytest

from vram_llm.machine.process_limits import process_limits
from vram_llm.machine.software import n_nvidia_cards, operating_system, package_versions
from vram_llm.units import GIB


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("file", "text", "is_container"),
    [
        ("proc/1/cgroup", "0::/init.scope", False),
        ("proc/1/cgroup", "1:cpu:/docker/12ab", True),
        ("proc/1/cgroup", "0::/kubepods/burstable/x", True),
        (".dockerenv", "", True),
        ("run/.containerenv", "", True),
    ],
)
def test_a_container(file: str, text: str, is_container: bool, tmp_path: Path) -> None:
    put(tmp_path / file, text)
    assert operating_system(tmp_path).is_container is is_container


def test_cards_on_the_bus_need_no_driver(tmp_path: Path) -> None:
    for address, vendor, kind in (
        ("0000:01:00.0", "0x10de", "0x030000"),
        ("0000:01:00.1", "0x10de", "0x040300"),  # its sound
        ("0000:02:00.0", "0x10de", "0x030200"),
        ("0000:03:00.0", "0x1002", "0x030000"),
    ):
        put(tmp_path / "sys/bus/pci/devices" / address / "vendor", vendor + "\n")
        put(tmp_path / "sys/bus/pci/devices" / address / "class", kind + "\n")
    assert n_nvidia_cards(tmp_path) == 2


def test_packages() -> None:
    assert package_versions(("vram-llm", "no-such-package"))["no-such-package"] is None
    assert None not in package_versions().values()


@pytest.mark.parametrize(("limit", "expected"), [(8 * GIB, 8 * GIB), (2**63 - 4096, None)])
def test_a_cgroup_of_version_1(limit: int, expected: int | None, tmp_path: Path) -> None:
    put(tmp_path / "proc/self/cgroup", "4:memory:/box")
    folder = tmp_path / "sys/fs/cgroup/memory/box"
    put(folder / "memory.limit_in_bytes", str(limit))
    put(folder / "memory.usage_in_bytes", str(GIB))
    found = process_limits(tmp_path)
    assert found.cgroup_memory_bytes == expected
    assert found.cgroup_free_bytes == (None if expected is None else 7 * GIB)
