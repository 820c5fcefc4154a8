import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import zoo
from vram_llm.errors import CorruptHeader, MissingShard, ModelFileError, ModelNotFound, TruncatedFile
from vram_llm.model import header_file
from vram_llm.model.header_reader import read_header
from vram_llm.units import MIB


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """A function that returns the most bytes that were allocated at once."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def small() -> zoo.Model:
    return zoo.llama(4, 64, 4, 2, 128, 96)


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    zoo.write(small(), tmp_path / "m.gguf", shard_bytes=40_000)
    return sorted(tmp_path.iterdir())


def test_one_file(tmp_path: Path) -> None:
    path = zoo.write(small(), tmp_path / "m.gguf")
    header = read_header(str(path))
    assert header.metadata["general.architecture"] == "llama"
    assert [t.name for t in header.tensors] == list(small().tensors)
    assert [(shard.path, shard.n_bytes) for shard in header.shards] == [(path, path.stat().st_size)]


def test_all_shards_are_found_from_any(shards: list[Path]) -> None:
    assert len(shards) > 2
    headers = [read_header(shard) for shard in shards]
    assert all(header == headers[0] for header in headers)
    assert [shard.path for shard in headers[0].shards] == shards
    assert headers[0].path == shards[0]
    assert [t.name for t in headers[0].tensors] == list(small().tensors)
    assert headers[0].metadata["general.architecture"] == "llama"


def test_symlinks_keep_their_names(shards: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for i, shard in enumerate(shards):
        blob = shard.rename(cache / f"blob{i}")
        shard.symlink_to(blob)
    assert len(read_header(shards[1]).shards) == len(shards)


def test_a_part_that_is_gone_is_named(shards: list[Path]) -> None:
    shards[1].unlink()
    with pytest.raises(
        MissingShard, match=f"1 of the model's {len(shards)} parts is not in .*{shards[1].name}"
    ):
        read_header(shards[0])


def test_a_renamed_part_cannot_find_the_others(shards: list[Path]) -> None:
    renamed = shards[0].rename(shards[0].with_name("model.gguf"))
    with pytest.raises(MissingShard, match="does not end in -00001-of-"):
        read_header(renamed)


def test_a_part_under_another_parts_name(shards: list[Path]) -> None:
    shards[2].write_bytes(shards[1].read_bytes())
    with pytest.raises(MissingShard, match="is part 2 of"):
        read_header(shards[2])
    with pytest.raises(MissingShard, match=f"{shards[2].name} does not say that it is part 3"):
        read_header(shards[0])


def test_parts_of_different_models(shards: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    longer = zoo.llama(4, 64, 4, 2, 128, 96)
    longer.tensors = {f"x.{name}": shape for name, shape in longer.tensors.items()}
    longer.tensors["x.more"] = (32,)
    zoo.write(longer, other / "m.gguf", shard_bytes=40_000)
    shards[-1].write_bytes((other / shards[-1].name).read_bytes())
    with pytest.raises(MissingShard, match=r"not parts of one model"):
        read_header(shards[0])


def test_a_tensor_in_two_parts(tmp_path: Path) -> None:
    model = small()
    zoo.write(model, tmp_path / "m.gguf", shard_bytes=40_000)
    first, second, *_ = sorted(tmp_path.iterdir())
    raw = second.read_bytes()
    name = next(name for name in model.tensors if zoo.text(name) in raw)
    twin = next(
        each for each in model.tensors if len(each) == len(name) and zoo.text(each) in first.read_bytes()
    )
    second.write_bytes(raw.replace(zoo.text(name), zoo.text(twin)))
    with pytest.raises(MissingShard, match=f"'{twin}' is in both"):
        read_header(first)


def test_a_part_cut_short(shards: list[Path]) -> None:
    shards[1].write_bytes(shards[1].read_bytes()[:-100])
    with pytest.raises(TruncatedFile, match=shards[1].name):
        read_header(shards[0])


@pytest.mark.parametrize("count", ["three", -5, 2.5])
def test_an_absurd_number_of_parts(tmp_path: Path, count: object) -> None:
    model = small()
    model.metadata["split.count"] = zoo.Exact("i", count) if isinstance(count, int) else count
    with pytest.raises(CorruptHeader, match=r"split\.count is"):
        read_header(zoo.write(model, tmp_path / "m.gguf"))


def test_no_such_file_names_what_is_there(tmp_path: Path) -> None:
    zoo.write(small(), tmp_path / "there.gguf")
    with pytest.raises(ModelNotFound, match=r"no file .*gone\.gguf; the models there are there\.gguf"):
        read_header(tmp_path / "gone.gguf")
    with pytest.raises(ModelNotFound, match=r"no file /nowhere/at/all\.gguf$"):
        read_header("/nowhere/at/all.gguf")


def test_a_directory_lists_its_models(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"is a directory; there is no \.gguf file in it"):
        read_header(tmp_path)
    for i in range(7):
        (tmp_path / f"{i}.gguf").touch()
    with pytest.raises(ModelNotFound, match=r"0\.gguf, 1\.gguf, .*4\.gguf and 2 more"):
        read_header(tmp_path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    empty = tmp_path / "empty.gguf"
    empty.touch()
    with pytest.raises(TruncatedFile, match="is empty"):
        read_header(empty)
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_header("/dev/null")
    with pytest.raises(ModelFileError, match="cannot be read: File name too long"):
        read_header("x" * 5000)
    with pytest.raises(ModelNotFound, match="no file"):
        read_header("a\0b")


@pytest.mark.parametrize(("key", "wanted"), [("split.no", "u16"), ("split.count", "u16")])
def test_a_type_that_llama_cpp_does_not_load(shards: list[Path], key: str, wanted: str) -> None:
    raw = shards[1].read_bytes()
    at = raw.index(zoo.text(key)) + len(zoo.text(key))
    shards[1].write_bytes(raw[:at] + b"\x03" + raw[at + 1 :])  # i16, as long as u16
    message = f"{shards[1].name} has {key} as i16, and llama.cpp takes only {wanted}"
    with pytest.raises(CorruptHeader, match=message):
        read_header(shards[0])


def test_parts_that_disagree_on_their_number(shards: list[Path]) -> None:
    raw = shards[1].read_bytes()
    at = raw.index(zoo.text("split.count")) + len(zoo.text("split.count")) + 4
    shards[1].write_bytes(raw[:at] + b"\x63\x00" + raw[at + 2 :])
    with pytest.raises(MissingShard, match=f"{shards[1].name} does not say that it is part 2 of"):
        read_header(shards[0])


def test_parts_of_two_architectures(shards: list[Path]) -> None:
    raw = shards[1].read_bytes()
    n_keys = int.from_bytes(raw[16:24], "little") + 1
    own = zoo.text("general.architecture") + zoo.metadata_value("gemma")
    shards[1].write_bytes(raw[:16] + n_keys.to_bytes(8, "little") + own + raw[24:] + bytes(64))
    with pytest.raises(
        MissingShard, match=f"'llama', {shards[1].name} of 'gemma': they are not parts of one"
    ):
        read_header(shards[0])


def sparse(path: Path, head: bytes, n_bytes: int) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(n_bytes)
    return path


def test_a_header_that_is_a_hole_is_refused_without_reading_it(tmp_path: Path) -> None:
    one_key = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + zoo.text("tokenizer.ggml.tokens")
    strings = sparse(tmp_path / "s.gguf", one_key + struct.pack("<IIQ", 9, 8, 2**22), 2**40)
    numbers = sparse(tmp_path / "n.gguf", one_key + struct.pack("<IIQ", 9, 10, 2**30), 2**40)
    for path in (strings, numbers):
        with peak_memory() as peak:
            with pytest.raises(CorruptHeader, match="but the disk holds"):
                read_header(path)
            assert peak() < 64 * MIB


def test_a_header_may_have_a_hole_where_it_is_zero(tmp_path: Path) -> None:
    model = small()
    model.metadata["tokenizer.ggml.scores"] = [0] * 100_000
    raw = zoo.write(model, tmp_path / "m.gguf").read_bytes()
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        for at in range(0, len(raw), 4096):
            if any(raw[at : at + 4096]):
                file.seek(at)
                file.write(raw[at : at + 4096])
        file.truncate(len(raw))
    assert path.stat().st_blocks * 512 < 100_000
    assert read_header(path).tensors == read_header(tmp_path / "m.gguf").tensors


def test_a_header_longer_than_any_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_file, "MAX_HEADER_BYTES", 2**17)
    model = small()
    model.metadata["tokenizer.ggml.scores"] = [0] * 100_000
    with pytest.raises(CorruptHeader, match=r"goes on past byte 131,072, but no model's is longer"):
        read_header(zoo.write(model, tmp_path / "m.gguf"))


def test_too_little_memory_is_an_error_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(header_file, "parse", no_memory)
    with pytest.raises(ModelFileError, match="too little memory"):
        read_header(zoo.write(small(), tmp_path / "m.gguf"))


def test_a_fifo_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.gguf"
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_header(path)
    monkeypatch.setattr(Path, "is_file", lambda _: True)  # it was a file when it was looked at
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_header(path)
