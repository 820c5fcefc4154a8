"""A header's copy: the same metadata and tensors, without vocabulary and without weights."""

from pathlib import Path

import pytest

from tests.zoo import PUBLISHED, bert, llama, nemotron_49b, write
from tests.zoo.writer import Exact
from vram_llm.model.header import Header
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile
from vram_llm.model.strip import vocab_size, write_stripped
from vram_llm.units import GIB, MIB

VOCABULARY = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": [f"word{i}" for i in range(5000)],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.chat_template": "{{ messages }}",
}


def stripped(header: Header, folder: Path) -> Header:
    return read_header(write_stripped(header, folder / "stripped.gguf"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_copy_has_the_same_profile(name: str, tmp_path: Path) -> None:
    header = read_header(write(PUBLISHED[name](), tmp_path / "model.gguf"))
    copy, whole = profile(stripped(header, tmp_path)), profile(header)
    assert (copy.layers, copy.output_tensors, copy.vocab_size) == (
        whole.layers, whole.output_tensors, whole.vocab_size,
    )  # fmt: skip


def test_values_are_copied_with_their_types(tmp_path: Path) -> None:
    model = llama(layers=1)
    model.metadata["llama.odd"] = Exact("H", 7)
    model.metadata["general.alignment"] = 32
    header = read_header(write(model, tmp_path / "model.gguf"))
    raw = stripped(header, tmp_path).raw
    assert raw["llama.odd"] == b"\x02\x00\x00\x00\x07\x00"
    same = {key for key, value in header.raw.items() if raw.get(key) == value}
    assert {"general.architecture", "llama.block_count", "llama.rope.dimension_count"} <= same


def test_the_vocabulary_is_left_out_and_its_size_kept(tmp_path: Path) -> None:
    model = llama(layers=1, vocab=5000)
    model.metadata |= VOCABULARY
    header = read_header(write(model, tmp_path / "model.gguf"))
    copy = stripped(header, tmp_path)
    assert [key for key in copy.metadata if key.startswith("tokenizer.")] == ["tokenizer.ggml.model"]
    assert copy.metadata["tokenizer.ggml.model"] == "none"
    assert copy.metadata["llama.vocab_size"] == 5000 == vocab_size(header)


def test_what_bert_says_of_its_weights_is_kept(tmp_path: Path) -> None:
    copy = stripped(read_header(write(bert(), tmp_path / "model.gguf")), tmp_path)
    assert copy.metadata["tokenizer.ggml.token_type_count"] == 2


def test_shards_become_one_file_without_weights(tmp_path: Path) -> None:
    path = write(nemotron_49b(), tmp_path / "model.gguf", shard_bytes=40 * 10**9)
    header = read_header(path)
    copy = stripped(header, tmp_path)
    assert len(header.shards) == 2
    assert len(copy.shards) == 1
    assert not [key for key in copy.metadata if key.startswith("split.")]
    assert [(t.name, t.shape, t.type) for t in copy.tensors] == [
        (t.name, t.shape, t.type) for t in header.tensors
    ]
    stat = (tmp_path / "stripped.gguf").stat()
    assert stat.st_size > 40 * GIB
    assert stat.st_blocks * 512 < MIB


def test_a_header_alone_is_enough(tmp_path: Path) -> None:
    path = write(llama(), tmp_path / "model.gguf")
    header = read_header(path)
    path.unlink()
    assert profile(stripped(header, tmp_path)).n_layers == 32
