"""The built-in model: written by its script, readable, and a real tokenizer."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp
import pytest

from vram_llm import demo

MAKE = Path(__file__).resolve().parents[2] / "tools" / "demo_model" / "make.py"


def test_the_script_writes_the_same_bytes(tmp_path: Path) -> None:
    again = tmp_path / "demo.gguf"
    subprocess.run([sys.executable, str(MAKE), "--output", str(again)], check=True, capture_output=True)
    assert again.read_bytes() == demo.path().read_bytes()


def test_the_file_is_small() -> None:
    assert demo.path().stat().st_size < 1_500_000


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(demo.path())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", "llama"),
        ("llama.context_length", 2048),
        ("llama.block_count", 4),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "gpt-2"),
    ],
)
def test_header(reader: gguf.GGUFReader, key: str, value: object) -> None:
    field = reader.get_field(key)
    assert field is not None
    assert field.contents() == value


def test_weights_are_q8_0_and_the_output_is_a_tensor_of_its_own(reader: gguf.GGUFReader) -> None:
    types = {tensor.name: tensor.tensor_type for tensor in reader.tensors}
    matrices = {kind for name, kind in types.items() if not name.endswith("_norm.weight")}
    assert matrices == {gguf.GGMLQuantizationType.Q8_0}
    assert {"token_embd.weight", "output.weight"} <= types.keys()


@pytest.fixture(scope="module")
def model() -> Iterator[llama_cpp.Llama]:
    model = llama_cpp.Llama(str(demo.path()), n_ctx=512, verbose=False)
    yield model
    model.close()


@pytest.mark.parametrize(
    "text",
    ["Hello! How are you?", "two\n\n  lines\tand a tab", "Grüße, 世界 🙂", "f(x) = 10**-3", "", "it's we'll"],
)
def test_text_survives_the_tokenizer(model: llama_cpp.Llama, text: str) -> None:
    tokens = model.tokenize(text.encode(), add_bos=False)
    assert model.detokenize(tokens).decode() == text


def test_words_of_the_corpus_are_single_tokens(model: llama_cpp.Llama) -> None:
    assert len(model.tokenize(b" memory layers token", add_bos=False)) == 3


def test_chatml_tokens_are_special(model: llama_cpp.Llama) -> None:
    start, end = (
        model.tokenize(text, add_bos=False, special=True) for text in (b"<|im_start|>", b"<|im_end|>")
    )
    assert len(start) == len(end) == 1
    assert end == [model.token_eos()]


def test_greedy_answers_are_varied_and_run_on(model: llama_cpp.Llama) -> None:
    answer = model.create_chat_completion(
        [{"role": "user", "content": "What does a planner do?"}], temperature=0.0, max_tokens=100
    )
    assert isinstance(answer, dict)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "length"
    assert len(set((choice["message"]["content"] or "").split())) > 50
