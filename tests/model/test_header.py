from pathlib import Path

import pytest

from tests import zoo
from vram_llm.errors import CorruptHeader, MissingShard, ModelFileError, ModelNotFound, TruncatedFile
from vram_llm.model.header_reader import read_header


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
