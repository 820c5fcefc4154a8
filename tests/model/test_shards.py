import pytest

from vram_llm.model.shards import by_model, is_later_shard, shard_name, stem


def test_a_shard_names_all_parts() -> None:
    shard = shard_name("BF16/m-BF16-00002-of-00003.gguf")
    assert shard is not None
    assert (shard.prefix, shard.number, shard.count) == ("BF16/m-BF16", 2, 3)
    assert shard.parts == tuple(f"BF16/m-BF16-0000{i}-of-00003.gguf" for i in (1, 2, 3))


@pytest.mark.parametrize("name", ["m.gguf", "m-00001-of-00002.bin", "m-1-of-2.gguf", "m-00001-of-00002"])
def test_other_names_are_whole_models(name: str) -> None:
    assert shard_name(name) is None
    assert not is_later_shard(name)


@pytest.mark.parametrize(
    ("name", "short"),
    [("a/m-Q8_0-00001-of-00003.gguf", "m-Q8_0"), ("a/m-Q8_0.gguf", "m-Q8_0"), ("tiny", "tiny")],
)
def test_a_stem_has_no_shard_number(name: str, short: str) -> None:
    assert stem(name) == short


def test_files_by_model() -> None:
    names = ["b-00003-of-00003.gguf", "a.gguf", "b-00002-of-00003.gguf", "b-00001-of-00002.gguf"]
    assert by_model(names) == {
        "a.gguf": ["a.gguf"],
        "b-00001-of-00002.gguf": ["b-00001-of-00002.gguf"],
        "b-00002-of-00003.gguf": ["b-00002-of-00003.gguf", "b-00003-of-00003.gguf"],
    }
