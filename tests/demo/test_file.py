"""The built-in model's file: small, Q8_0, a real tokenizer, a template with tools and thinking."""

import gguf
import pytest

from vram_llm import demo
from vram_llm.chat.dialect import dialect_of
from vram_llm.llama.model import LoadedModel


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(demo.path())


def test_the_file_is_small_and_has_its_card_beside_it() -> None:
    assert demo.path().stat().st_size < 8_000_000
    assert "not" in demo.path().with_name("MODEL_CARD.md").read_text()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", "llama"),
        ("general.sampling.temp", 0.0),
        ("llama.context_length", 4096),
        ("llama.attention.key_length", 64),
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


@pytest.mark.parametrize(
    "text",
    ["Hello! How are you?", "two\n\n  lines\tand a tab", "Grüße, 世界 🙂", "f(x) = 10**-3", "", "it's we'll"],
)
def test_text_survives_the_tokenizer(model: LoadedModel, text: str) -> None:
    tokens = model.vocab.tokenize(text, add_special=False)
    assert b"".join(map(model.vocab.piece, tokens)).decode() == text


@pytest.mark.parametrize(
    "mark", ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tools>"]
)
def test_marks_are_one_token(model: LoadedModel, mark: str) -> None:
    assert len(model.vocab.tokenize(mark, add_special=False)) == 1
    assert model.vocab.is_end(model.vocab.tokenize("<|im_end|>", add_special=False)[0])


def test_the_template_shows_tools_and_thinking(model: LoadedModel) -> None:
    dialect = dialect_of(model.metadata("tokenizer.chat_template"))
    assert (dialect.name, dialect.takes_tools) == ("hermes", True)
    assert dialect.thinks == ("<think>", "</think>")
    assert dialect.efforts["none"] == {"thinking": False}
