"""State on disk: whatever lies at its path is ignored with a sentence, and a write leaves no half of it."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from vram_llm.machine import calibration_store, disk_store, json_store, overhead_store
from vram_llm.machine.host import ROOT
from vram_llm.model import header_cache, hub
from vram_llm.model.http_client import FileBytes, FileVersion
from vram_llm.state_file import open_regular, read_state, write_state

URL = "https://host/m.gguf"
HEADER = FileBytes(b"GGUF rest", FileVersion('"a"', 10))


def a_fifo(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_link_elsewhere(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"{}")
    path.symlink_to(other)


def a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def bytes_of_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\x00" * 100)


def deep_json(path: Path) -> None:
    path.write_bytes(b'{"version": 1, "cards": ' + b"[" * 100_000)


HOSTILE = [
    a_fifo,
    a_device,
    a_link_elsewhere,
    a_link_to_itself,
    a_folder,
    a_huge_file,
    bytes_of_no_text,
    deep_json,
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRAM_LLM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("VRAM_LLM_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path


@pytest.mark.parametrize("make", HOSTILE)
def test_a_store_with_such_a_file_is_empty_and_says_so(make: Callable[[Path], None], folder: Path) -> None:
    for path, read in (
        (calibration_store.path(), calibration_store.read),
        (disk_store.path(), disk_store.read),
        (overhead_store.path(), lambda: json_store.read(overhead_store.path(), dict, "measured overheads")),
    ):
        make(path)
        records, [note] = read()
        assert (records, str(path) in note) == ({}, True)
        if make is a_link_elsewhere:
            path.with_name("other").unlink()


@pytest.mark.parametrize("make", HOSTILE)
def test_a_cached_header_of_such_a_file_is_not_used(
    make: Callable[[Path], None], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header_cache.save(URL, HEADER)
    [entry] = (folder / "headers").iterdir()
    entry.unlink()
    make(entry)
    assert header_cache.load(URL) is None
    [warning] = caplog.messages
    assert f"the cached header in {entry} is not used: it is" in warning or "directory" in warning
    if make is not a_folder:
        header_cache.save(URL, HEADER)
        assert header_cache.load(URL) == HEADER


@pytest.mark.parametrize("make", [a_fifo, a_device, a_folder, a_huge_file, bytes_of_no_text])
def test_a_token_of_such_a_file_is_not_used(
    make: Callable[[Path], None], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(folder / "token")
    assert hub.endpoint().token is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("make", HOSTILE)
def test_a_write_replaces_what_is_there(make: Callable[[Path], None], folder: Path) -> None:
    path = folder / "state"
    make(path)
    if make is a_folder:
        with pytest.raises(OSError, match="state"):
            write_state(path, b"new")
        assert [each.name for each in folder.iterdir()] == ["state"]
        return
    write_state(path, b"new", durable=True)
    assert (read_state(path, 10), stat.S_IMODE(path.lstat().st_mode)) == (b"new", 0o600)
    if make is a_link_elsewhere:
        assert (folder / "other").read_bytes() == b"{}"


def test_a_link_is_followed_where_it_is_wanted(folder: Path) -> None:
    write_state(folder / "secret", b"key")
    (folder / "link").symlink_to(folder / "secret")
    assert read_state(folder / "link", 10, follow=True) == b"key"
    with pytest.raises(OSError, match="it is a link to elsewhere"):
        open_regular(folder / "link", os.O_RDONLY)


def test_a_file_that_grows_while_it_is_read_has_the_limit() -> None:
    size = len((ROOT / "proc/self/status").read_bytes())  # its size is 0 to stat
    with pytest.raises(OSError, match="larger than 16 B"):
        read_state(ROOT / "proc/self/status", 16)
    assert size > 16
