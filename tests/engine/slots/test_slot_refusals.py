"""Slots and files that are refused: empty, of other models and caches, damaged, of other API keys."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine.slots.slot_loop import PROMPT, NewLoop, words
from vram_llm.engine.kv_cache import saved_slots
from vram_llm.planner.rope import Rope
from vram_llm.planner.types import Serving
from vram_llm.units import GIB, MIB


def test_an_empty_slot_is_not_saved(new_loop: NewLoop, tmp_path: Path) -> None:
    loop = new_loop()
    assert "slot 1 is empty" in str(loop.order("save", 1, tmp_path / "a").error)
    loop.answer(words(5, 10), max_tokens=2)
    refused = str(loop.order("save", 0, tmp_path / "a").error)
    assert "had a prompt of 11 tokens, and with --cache-reuse" in refused
    assert "serve with --cache-reuse 1" in refused
    assert list(tmp_path.iterdir()) == []


def test_other_models_and_caches_are_refused(
    new_loop: NewLoop, tmp_path: Path, path_of: Callable[[str], Path]
) -> None:
    file = tmp_path / "a"
    loop = new_loop()
    loop.answer(PROMPT)
    loop.order("save", 0, file)
    other = tmp_path / "other" / "llama.gguf"  # the same header and size
    other.parent.mkdir()
    data = bytearray(path_of("llama").read_bytes())
    data[-100_000:] = bytes(100_000)
    other.write_bytes(data)
    cases = {
        "saved from another file of llama.gguf": new_loop(path=other),
        "saved from llama.gguf, and this server has gemma3.gguf": new_loop("gemma3"),
        "saved with other positions, metadata or control vectors": new_loop(rope=Rope(freq_scale=0.5)),
        "its KV cache is f32/f32, and this server's is f16/f16": new_loop(kv_type_k="f16", kv_type_v="f16"),
        "arranged in another way": new_loop(kv_unified=False),
        "has 307 tokens, and a sequence may have 256": new_loop(n_ctx=256),
        "so few are not reused": new_loop(serving=Serving(cache_reuse=400, slots_ram_bytes=0)),
    }
    for why, engine in cases.items():
        done = engine.order("restore", 0, file)
        assert why in str(done.error), done
        assert (done.error_param, engine.states.held if engine.sent[:-1] else [0, 0]) == ("filename", [0, 0])


LLAMA_SERVERS = struct.pack("=III", 0x67677371, 2, 0)  # its magic, version and number of tokens


def test_files_that_are_damaged_or_foreign(new_loop: NewLoop, tmp_path: Path) -> None:
    loop, file = new_loop(), tmp_path / "a"
    loop.answer(PROMPT)
    loop.order("save", 0, file)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    cases = {
        "it has 5 bytes less": (whole[:-5], "is damaged: it has"),
        "cut in its facts": (whole[:60], "its first part is not complete"),
        "flipped": (bytes(flipped), "its bytes are not those that were saved"),
        "foreign": (b"GGUF" + whole, "is not a saved slot"),
        "empty": (b"", "is not a saved slot"),
        "llama-server's": (LLAMA_SERVERS, "was saved by llama-server"),
        "version": (whole[:8] + b"\x02" + whole[9:], "has version 2"),
    }
    for data, why in cases.values():
        file.write_bytes(data)
        done = loop.order("restore", 0, file)
        assert why in str(done.error), (why, done)
    file.unlink()
    assert "there is no file 'a'" in str(loop.order("restore", 0, file).error)
    file.symlink_to("/etc/hostname")
    assert "link" in str(loop.order("restore", 0, file).error)
    file.unlink()
    file.write_text("somebody's notes")
    assert "is not a saved slot" in str(loop.order("save", 0, file).error)
    assert file.read_text() == "somebody's notes"
    for replaced in (LLAMA_SERVERS, whole[:60]):  # the second was cut
        file.write_bytes(replaced)
        assert loop.order("save", 0, file).error is None
    assert loop.order("restore", 1, file).error is None


def test_another_version_of_the_library(new_loop: NewLoop, tmp_path: Path) -> None:
    loop, file = new_loop(), tmp_path / "a"
    loop.answer(PROMPT)
    loop.order("save", 0, file)
    slot, state, _ = saved_slots.read_slot(file, "")
    data = file.read_bytes().replace(slot.facts.library.encode(), b"0.3.99", 1)
    file.write_bytes(data)
    assert "saved by llama-cpp-python 0.3.99" in str(loop.order("restore", 0, file).error)
    assert json.loads(data[20 : len(data) - state.nbytes])["tokens"] == slot.tokens


def test_a_state_that_the_host_has_no_memory_for(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loop = new_loop()
    loop.answer(PROMPT)

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(type(loop._cache.memory), "state", no_memory)
        done = loop.order("save", 0, tmp_path / "a")
    assert (done.error, done.error_param) == ("the host has no memory for the state of this slot", None)
    assert not loop._cache._slots.running
    assert loop.order("save", 0, tmp_path / "a").error is None
    assert loop.answer(PROMPT)[-1].cached_tokens == len(PROMPT) - 1


def test_a_full_disk(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loop = new_loop()
    loop.answer(PROMPT)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    done = loop.order("save", 0, tmp_path / "a")
    assert (done.error, done.error_param) == ("the slot could not be saved as 'a': the disk is full", None)
    assert list(tmp_path.iterdir()) == []
    gone = loop.order("save", 0, tmp_path / "none" / ".." / "none" / "x")
    assert gone.error is not None


@pytest.mark.parametrize(
    ("total", "free", "fits"),
    [
        (100 * GIB, 2 * GIB, True),
        (100 * GIB, GIB + 1024, False),  # 1 GiB is kept free
        (100 * MIB, 20 * MIB, True),
        (100 * MIB, 5 * MIB + 1024, False),  # a twentieth
    ],
)
def test_saved_slots_do_not_fill_the_disk(
    new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int, free: int, fits: bool
) -> None:
    loop = new_loop()
    loop.answer(PROMPT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=total, free=free))
    done = loop.order("save", 0, tmp_path / "a")
    assert (done.error is None) is fits
    assert (tmp_path / "a").exists() is fits
    if done.error is not None:
        assert done.error.startswith("the slot could not be saved as 'a': it takes ")
        assert done.error.endswith("are kept free; delete saved slots")


def test_slots_and_files_of_other_keys(new_loop: NewLoop, tmp_path: Path) -> None:
    loop, file = new_loop(), tmp_path / "a"
    mine: dict[str, Any] = {"owner": "ann", "namespace": 7}
    other: dict[str, Any] = {"owner": "bob", "namespace": 8}
    loop.answer(PROMPT, namespace=7, client="ann")
    assert "another API key" in str(loop.order("save", 0, file, **other).error)
    assert "another API key" in str(loop.order("erase", 0, **other).error)
    assert loop.order("save", 0, file, **mine).error is None
    assert "saved with another API key" in str(loop.order("restore", 0, file, **other).error)
    loop.answer(words(6, 300), namespace=8, client="bob")
    assert "saved with another API key" in str(loop.order("save", 1, file, **other).error)
    loop.order("erase", 0, **mine)
    assert loop.order("restore", 0, file, owner="ann", namespace=9).error is None  # after a restart
    assert loop.order("save", 0, tmp_path / "b", **mine).error is None
    assert loop.answer(PROMPT, namespace=8)[-1].cached_tokens == 0
    assert loop.answer(PROMPT, namespace=9)[-1].cached_tokens == len(PROMPT) - 1
