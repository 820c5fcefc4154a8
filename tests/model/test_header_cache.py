import os
from pathlib import Path

import pytest

from vram_llm.model import header_cache
from vram_llm.model.http_client import FileBytes, FileVersion

URL = "https://me:pa55@host/m.gguf"
HEADER = FileBytes(b"GGUF\n\x00rest", FileVersion('"a"', 8 * 10**9))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRAM_LLM_CACHE_DIR", str(tmp_path))
    return tmp_path / "headers"


def test_what_is_kept_comes_back(folder: Path) -> None:
    assert header_cache.load(URL) is None
    header_cache.save(URL, HEADER)
    assert header_cache.load(URL) == HEADER
    assert header_cache.load(URL + "?other") is None
    [entry] = folder.iterdir()
    assert b"pa55" not in entry.read_bytes()


def test_a_new_version_takes_the_place_of_the_old(folder: Path) -> None:
    header_cache.save(URL, HEADER)
    newer = FileBytes(b"GGUF new", FileVersion('"b"', 5))
    header_cache.save(URL, newer)
    assert header_cache.load(URL) == newer
    assert len(list(folder.iterdir())) == 1


def test_what_has_no_version_is_not_kept(folder: Path) -> None:
    header_cache.save(URL, FileBytes(b"GGUF", FileVersion("", 5)))
    assert not folder.exists()


def test_a_damaged_entry_is_as_good_as_none(folder: Path) -> None:
    header_cache.save(URL, HEADER)
    [entry] = folder.iterdir()
    raw = entry.read_bytes()
    damaged = [raw[:n] for n in range(len(raw))]
    damaged += [
        raw + b"x",
        raw.replace(b"rest", b"Rest"),
        b"\xff" + raw,
        raw.replace(b'"n_bytes":', b'"n_bytes":-'),
    ]
    for each in damaged:
        entry.write_bytes(each)
        assert header_cache.load(URL) is None


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, folder: Path) -> None:
    folder.write_text("a file where the folder should be")
    header_cache.save(URL, HEADER)
    assert header_cache.load(URL) is None


def test_the_oldest_make_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header_cache.save("https://h/0", HEADER)
    [first] = folder.iterdir()
    monkeypatch.setattr(header_cache, "MAX_BYTES", 2 * first.stat().st_size)
    os.utime(first, (1, 1))
    header_cache.save("https://h/1", HEADER)
    header_cache.save("https://h/2", HEADER)
    assert [header_cache.load(f"https://h/{i}") for i in range(3)] == [None, HEADER, HEADER]
