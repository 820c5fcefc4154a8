"""Weights that a worker keeps: the second load does not send them, and no part of one is ever loaded."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.link_counter import counted_link
from tests.patience import looks
from tests.workers import await_listening, free_ports, worker_process
from vram_llm.errors import PortInUse
from vram_llm.llama import bindings as b
from vram_llm.llama import rpc
from vram_llm.llama.params import ModelParams
from vram_llm.llama.random_model import RandomModelShape
from vram_llm.llama.worker_cache import LEAST_WEIGHT_BYTES, CachedTensor, WorkerCache, surplus
from vram_llm.model.header_cache import CACHE_DIR_VARIABLE
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.types import Context
from vram_llm.units import MIB

SHAPE = RandomModelShape(n_embd=1024, n_ff=1024, n_layers=1, n_head=4, n_head_kv=2, n_vocab=12_288)
OUTPUT_BYTES = SHAPE.n_embd * SHAPE.n_vocab * 34 // 32  # the only tensor that is large enough to be kept
NOW = 100_000.0


def tensor(name: str, mib: int, age_s: float) -> CachedTensor:
    return CachedTensor(name, mib * MIB, NOW - age_s)


@pytest.mark.parametrize(
    ("files", "limit_mib", "gone"),
    [
        ([], 20, []),
        ([], 10, ["new"]),  # larger than the bound
        ([tensor("a", 20, 9000)], 32, []),
        ([tensor("a", 20, 9000)], 31, ["a"]),
        ([tensor("a", 20, 9000), tensor("b", 20, 8000)], 40, ["a"]),
        ([tensor("a", 20, 9000), tensor("b", 20, 8000)], 12, ["a", "b"]),
        ([tensor("a", 20, 9000), tensor("b", 20, 60)], 40, ["a"]),
        ([tensor("a", 20, 70), tensor("b", 20, 60)], 40, ["new"]),  # of this load: its beginning stays
        ([tensor("a", 2, 9000), tensor("b", 20, 60)], 31, ["new"]),
        ([tensor("new", 12, 9000), tensor("b", 20, 60)], 32, []),  # written again
    ],
)
def test_what_has_no_room(files: list[CachedTensor], limit_mib: int, gone: list[str]) -> None:
    assert surplus(files, tensor("new", 12, 0), limit_mib * MIB, NOW) == gone


def write(folder: Path, name: str, mib: int, mode: int = 0o644) -> Path:
    path = folder / name
    path.write_bytes(bytes(mib * MIB))
    path.chmod(mode)
    return path


def test_only_whole_files_stay(tmp_path: Path) -> None:
    write(tmp_path, "0" * 16, 1, mode=0o400)
    write(tmp_path, "1" * 16, 1)  # the worker was killed while it wrote
    mine = write(tmp_path, "notes.txt", 1)
    cache = WorkerCache(tmp_path, 10 * MIB)
    assert cache.n_bytes == MIB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0" * 16, "lock", mine.name]


def test_a_written_file_becomes_whole(tmp_path: Path) -> None:
    cache = WorkerCache(tmp_path, 10 * MIB)
    path = write(tmp_path, "a" * 16, 1)
    assert cache.saved(path) is None
    for _ in looks():
        if path.stat().st_mode & 0o777 == 0o400:
            break
    assert cache.n_bytes == MIB


def test_the_bound_holds_after_each_file(tmp_path: Path) -> None:
    for digit, age_s in (("0", 9000), ("1", 8000)):
        os.utime(write(tmp_path, digit * 16, 2, mode=0o400), (NOW, NOW))
        path = tmp_path / (digit * 16)
        then = path.stat().st_mtime - age_s
        os.utime(path, (then, then))
    cache = WorkerCache(tmp_path, 5 * MIB)
    assert cache.saved(write(tmp_path, "2" * 16, 2)) is None
    assert cache.n_bytes == 4 * MIB
    assert not (tmp_path / ("0" * 16)).exists()
    assert cache.saved(write(tmp_path, "3" * 16, 2)) is None
    message = cache.saved(write(tmp_path, "4" * 16, 2))
    assert message is not None
    assert "its bound of 5.00 MiB is reached" in message
    assert cache.saved(write(tmp_path, "5" * 16, 2)) is None  # said once
    assert (cache.n_bytes, cache.n_not_kept) == (4 * MIB, 2)


def test_a_smaller_bound_deletes_at_the_start(tmp_path: Path) -> None:
    for i in range(4):
        os.utime(write(tmp_path, str(i) * 16, 1, mode=0o400), (NOW + i, NOW + i))
    assert WorkerCache(tmp_path, 2 * MIB).n_bytes == 2 * MIB
    assert {path.name[0] for path in tmp_path.iterdir()} == {"2", "3", "l"}


def test_a_folder_has_one_worker(tmp_path: Path) -> None:
    cache = WorkerCache(tmp_path, MIB)
    with pytest.raises(PortInUse, match="another worker keeps its weights in"):
        WorkerCache(cache.folder, MIB)


@contextmanager
def worker(folder: Path, port: int, size: str = "1GiB") -> Iterator[str]:
    endpoint = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "vram_llm", "worker", "--listen", endpoint, "--threads", "1"]
    env = {**os.environ, CACHE_DIR_VARIABLE: str(folder)}
    with (
        open(folder / "worker.log", "ab") as log,
        worker_process([*command, "--cache-size", size], env, log) as process,
    ):
        await_listening(endpoint, process)
        yield endpoint


def load(path: Path, handles: list[int]) -> None:
    placement = placement_from_counts(["RPC0"], [SHAPE.n_layers], SHAPE.n_layers)
    context = Context(
        n_ctx=256, parallel=1, kv_type_k="f16", kv_type_v="f16", n_batch=32, n_ubatch=32, n_threads=1,
        use_mmap=True, pipeline_copies=False,
    )  # fmt: skip
    model = b.C.llama_model_load_from_file(os.fsencode(path), ModelParams(placement, context, handles).struct)
    assert model, b.last_errors()
    b.C.llama_model_free(model)
    b.props_of(handles[0])  # the answer comes after all bytes have arrived


def whole_file(folder: Path) -> Path:
    """The one file of the cache; the worker may still be busy with it."""
    for _ in looks():
        paths = [path for path in folder.iterdir() if len(path.name) == 16]
        if paths and paths[0].stat().st_mode & 0o777 == 0o400:
            return paths[0]
    raise AssertionError((folder, list(folder.iterdir())))


@pytest.mark.process
def test_a_second_load_sends_no_large_weights(tmp_path: Path) -> None:
    """Also after a restart of the worker; where it was killed while it wrote, they are sent again."""
    model, (port,) = SHAPE.write_random(tmp_path / "model.gguf"), free_ports(1)
    assert OUTPUT_BYTES > LEAST_WEIGHT_BYTES
    sent: list[int] = []
    for damaged in (False, False, True):
        kept = tmp_path / "worker" / str(port)
        if damaged:
            (path,) = (path for path in kept.iterdir() if len(path.name) == 16)
            path.chmod(0o600)
            os.truncate(path, OUTPUT_BYTES // 2)
        with worker(tmp_path, port) as endpoint, counted_link(endpoint) as link:
            handles = rpc.connect(link.endpoint)
            for _ in range(2 if not sent else 1):
                before = link.sent
                load(model, handles)
                sent.append(link.sent - before)
            assert whole_file(kept).stat().st_size == OUTPUT_BYTES
    first, again, restarted, damaged_once = sent
    assert first > OUTPUT_BYTES
    assert first - again >= OUTPUT_BYTES
    assert restarted == pytest.approx(again, abs=1000)  # connecting costs some bytes
    assert damaged_once == pytest.approx(first, abs=1000)
