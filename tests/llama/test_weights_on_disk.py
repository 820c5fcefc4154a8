"""Loads whose weights stay partly in the file: the same answers, and no more memory than planned."""

import ctypes
import logging
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.zoo.loadable import LOADABLE, with_vocabulary, write_loadable
from tools.random_model import write_llama
from vram_llm.llama.mapped_files import MappedFiles, MappedPart
from vram_llm.llama.mapped_tensors import mapped_tensors
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.read_ahead import DiskPart, ReadAhead
from vram_llm.machine.host import lockable_bytes
from vram_llm.machine.types import Fact, Source
from vram_llm.planner.disk_reads import DiskReads
from vram_llm.planner.types import Plan
from vram_llm.units import KIB, MIB
from vram_llm.workflows import detection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems map files in another way")

_PATIENCE_S = 20.0
_N_TOKENS = 6


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of four layers of some 7 MiB each."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_llama(path, n_embd=768, n_ff=(2048,) * 4, n_head=12, n_head_kv=4)
    with path.open("rb") as stream:
        os.fsync(stream.fileno())  # what is not on the disk yet stays in memory
    return path


def from_disk(plan: Plan, resident_bytes: int, window_bytes: int = 8 * MIB) -> Plan:
    """`plan`, with `resident_bytes` of its weights in memory."""
    reads = DiskReads(
        dense_bytes=1, expert_bytes=0, cyclic_bytes=1, resident_bytes=resident_bytes,
        window_bytes=window_bytes, bytes_per_s=Fact(1e9, Source.ASSUMED),
    )  # fmt: skip
    context = replace(plan.context, use_mmap=True, resident_bytes=resident_bytes)
    return replace(plan, context=context, disk_reads=reads)


def answer(model: LoadedModel) -> list[int]:
    """Greedy tokens after a prompt of several micro-batches."""
    model.forget(0)
    tokens = [int(token) for token in np.random.default_rng(3).integers(3, 300, 40)]
    position, found = 0, []
    for _ in range(_N_TOKENS):
        model.batch.clear()
        row = model.batch.add(tokens, position, 0, n_outputs=1)
        assert model.decode() == 0
        model.wait()
        position += len(tokens)
        tokens = [int(model.logits(row).argmax())]
        found += tokens
    return found


def test_the_answer_does_not_depend_on_where_weights_are(file: Path, plan_on_cpu: PlanOnCpu) -> None:
    plan = plan_on_cpu(file, n_ubatch=16, n_batch=64)
    answers = []
    for resident_mib in (1000, 9, 0):
        model = LoadedModel(from_disk(plan, resident_mib * MIB, 4 * MIB))
        answers.append([answer(model), answer(model)])
        model.close()
    assert answers == [answers[0]] * 3


@pytest.mark.parametrize("name", sorted(LOADABLE))
def test_llama_cpp_tells_which_layer_it_computes(
    name: str, tmp_path: Path, plan_on_cpu: PlanOnCpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def note(self: ReadAhead, layer: int) -> None:
        seen.append(layer)
        begin(self, layer)

    begin: Callable[[ReadAhead, int], None] = ReadAhead._begin
    monkeypatch.setattr(ReadAhead, "_begin", note)
    path = write_loadable(with_vocabulary(LOADABLE[name]()), tmp_path / "model.gguf")
    layers = [layer.index for layer in detection.analyze(str(path)).layers if not layer.is_draft]
    model = LoadedModel(from_disk(plan_on_cpu(path), 0))
    for position in range(2):
        seen.clear()
        model.batch.clear()
        model.batch.add([5], position, 0, n_outputs=1)
        assert model.decode() == 0
        model.wait()
        assert list(dict.fromkeys(seen)) == layers
    model.close()


def test_parts_of_the_file_are_where_the_tensors_are(file: Path, plan_on_cpu: PlanOnCpu) -> None:
    model, files = LoadedModel(plan_on_cpu(file, use_mmap=True)), MappedFiles()
    tensors = [each for each in mapped_tensors(model._model) if each.n_bytes > 2 * mmap.PAGESIZE]
    assert {"output.weight", "blk.0.ffn_up.weight", "blk.3.attn_q.weight"} <= {each.name for each in tensors}
    for tensor in tensors:
        part = files.part(tensor.address, tensor.n_bytes)
        assert part is not None
        assert tensor.n_bytes - part.n_bytes < 2 * mmap.PAGESIZE
        assert files.offset(part.address) == part.offset
        read = os.pread(part.descriptor, part.n_bytes, part.offset)
        assert read == ctypes.string_at(part.address, part.n_bytes)
    assert files.part(tensors[0].address, 1) is None
    assert files.offset(0) is None
    files.close()
    model.close()


def resident_pages(part: MappedPart) -> int:
    """Pages of a part that are in memory, by any program's doing."""
    pages = -(-part.n_bytes // mmap.PAGESIZE)
    flags = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(part.address), ctypes.c_size_t(part.n_bytes), flags) == 0
    return sum(flag & 1 for flag in flags)


@pytest.fixture
def whole(file: Path) -> Iterator[MappedPart]:
    """The file, mapped and out of memory."""
    with file.open("rb") as stream:
        mapped = np.memmap(stream, np.uint8, "r")
        n_bytes = len(mapped) // mmap.PAGESIZE * mmap.PAGESIZE
        part = MappedPart(mapped.ctypes.data, n_bytes, stream.fileno(), 0)
        part.drop()
        if resident_pages(part) > n_bytes // mmap.PAGESIZE // 10:
            pytest.skip("this file system keeps its files in memory, or another program uses the file")
        yield part
        del mapped


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)  # between two looks


def test_what_is_ahead_is_read_and_what_is_behind_dropped(whole: MappedPart) -> None:
    n_layers = 8
    size = whole.n_bytes // n_layers // (64 * KIB) * 64 * KIB
    parts = [MappedPart(whole.address + i * size, size, whole.descriptor, i * size) for i in range(n_layers)]
    ahead = ReadAhead([DiskPart(i, part) for i, part in enumerate(parts)], 2 * size)
    for layer in (*range(n_layers), 0, 1):
        ahead._begin(layer)
        following = parts[(layer + 1) % n_layers]
        until(lambda part=following: resident_pages(part) * mmap.PAGESIZE >= 0.9 * size)  # type: ignore[misc]  # a lambda with a default
        until(lambda: sum(map(resident_pages, parts)) * mmap.PAGESIZE < 4.5 * size)
    ahead.close()


def test_what_stays_is_locked(file: Path, plan_on_cpu: PlanOnCpu) -> None:
    if lockable_bytes() not in (None, *range(6 * MIB, 2**40, MIB)):
        pytest.skip("this process may lock less than 6 MiB")
    model = LoadedModel(from_disk(plan_on_cpu(file), 5 * MIB))
    status = Path("/proc/self/status").read_text().splitlines()
    locked = next(int(line.split()[1]) * KIB for line in status if line.startswith("VmLck:"))
    model.close()
    assert 0 < locked <= 5 * MIB + 64 * mmap.PAGESIZE


def test_what_may_not_be_locked_is_said_and_served(
    file: Path,
    plan_on_cpu: PlanOnCpu,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(_: MappedPart) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(MappedPart, "lock", refuse)
    plan = plan_on_cpu(file)
    with caplog.at_level(logging.WARNING):
        model = LoadedModel(from_disk(plan, 12 * MIB))
    found = answer(model)
    model.close()
    (message,) = [record.getMessage() for record in caplog.records if "locked in memory" in record.message]
    assert message.startswith("only 0 B of the weights are locked in memory (Cannot allocate memory)")
    assert "ulimit -l unlimited" in message
    in_memory = LoadedModel(from_disk(plan, 1000 * MIB))
    assert answer(in_memory) == found
    in_memory.close()
