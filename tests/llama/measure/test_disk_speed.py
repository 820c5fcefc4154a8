"""How fast a disk reads, measured on real files."""

import mmap
import os
import sys
from pathlib import Path

import pytest

from vram_llm.llama.measure.disk_speed import LEAST_BYTES, disk_bytes_per_s
from vram_llm.machine import disk_store
from vram_llm.units import MIB
from vram_llm.workflows import measurement

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was read from a disk")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is on the disk."""
    path = tmp_path_factory.mktemp("disk") / "model.gguf"
    with path.open("wb") as stream:
        for _ in range(3):
            stream.write(bytes(range(256)) * (LEAST_BYTES // 256))
        stream.flush()
        os.fsync(stream.fileno())
    return path


def test_a_disk_has_a_speed(file: Path) -> None:
    shares: list[float] = []
    rate = disk_bytes_per_s(file, 10.0, shares.append)
    if rate is None:
        pytest.skip("this file system keeps its files in memory")
    assert 1 * MIB < rate < 1e12
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_largest_model_of_a_disk_is_read_and_kept(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "VRAM_LLM_DATA_DIR", "HF_HUB_CACHE", "LLAMA_CACHE", "OLLAMA_MODELS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    small = tmp_path / "small.gguf"
    small.write_bytes(bytes(2048))
    found = list(measurement.calibrate_disks([str(small), str(file)], seconds=10.0))
    if not found:
        pytest.skip("this file system keeps its files in memory")
    (stored,) = found
    assert stored.key == disk_store.disk_key(file)
    assert disk_store.read()[0] == {stored.key: stored.record}
    assert stored.record.file == str(file)
    assert list(measurement.calibrate_disks([str(small)])) == []


def test_a_file_in_memory_has_none(file: Path) -> None:
    """Another program, here this one, has it mapped, so that it cannot be dropped."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert len(bytes(mapped)) == 3 * LEAST_BYTES
        assert disk_bytes_per_s(file, 10.0) is None


def test_a_small_file_has_none(tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    small.write_bytes(bytes(LEAST_BYTES // 2))
    assert disk_bytes_per_s(small) is None
