"""Measured disks are found again by the place where they are mounted."""

import dataclasses
from pathlib import Path

import pytest

from tests.machine.test_host import lay_out
from vram_llm.machine import disk_store
from vram_llm.machine.host import read_host
from vram_llm.machine.types import Fact, Machine, Source

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 259:2 / /data/my\\040models rw,noatime - xfs /dev/nvme0n1p2 rw
41 27 259:3 / /data rw,noatime - xfs /dev/nvme1n1 rw"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAM_LLM_DATA_DIR", str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("/home/me/model.gguf", "/ (/dev/vda)"),
        ("/data/other/model.gguf", "/data (/dev/nvme1n1)"),
        ("/data/my models/model.gguf", "/data/my models (/dev/nvme0n1p2)"),
    ],
)
def test_the_nearest_mount_above_a_file_is_its_disk(tmp_path: Path, file: str, key: str) -> None:
    root = lay_out(tmp_path, {"proc/self/mountinfo": MOUNTS})
    assert disk_store.disk_key(Path(file), root) == key


def test_a_disk_is_unknown_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert disk_store.disk_key(Path("/home/model.gguf"), tmp_path) is None


def here() -> Machine:
    return Machine(devices=(), host=dataclasses.replace(read_host(), disk_bytes_per_s=None))


def test_a_measured_disk_speaks_for_the_files_on_it(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    key = disk_store.disk_key(file)
    assert key is not None
    machine = here()  # its free memory is another one a moment later
    assert disk_store.with_disk(machine, file) == machine
    stored = disk_store.store(key, disk_store.new_record(2.5e9, file))
    assert stored.notes == ()
    assert disk_store.read()[0] == {key: stored.record}
    found = disk_store.with_disk(here(), file).host.disk_bytes_per_s
    assert found == Fact(2.5e9, Source.MEASURED)


def test_a_given_speed_and_another_computer_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    disk_store.store(str(disk_store.disk_key(file)), disk_store.new_record(2.5e9, file))
    given = dataclasses.replace(here().host, disk_bytes_per_s=Fact(7e9, Source.GIVEN))
    other = dataclasses.replace(here().host, what_if=True)
    for host in (given, other):
        assert disk_store.with_disk(Machine(devices=(), host=host), file).host == host


def test_forgotten_disks_are_gone(tmp_path: Path) -> None:
    for key in ("/ (/dev/vda)", "/data (/dev/vdb)"):
        disk_store.store(key, disk_store.new_record(1e9, tmp_path / "model.gguf"))
    assert disk_store.forget(["/data (/dev/vdb)", "a device"]) == ("/data (/dev/vdb)",)
    assert set(disk_store.read()[0]) == {"/ (/dev/vda)"}
    assert disk_store.forget([]) == ()
