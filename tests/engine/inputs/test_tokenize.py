"""Prompts with a gap between prefix and suffix."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import loaded
from tests.zoo.loadable import dense, with_vocabulary, write_loadable
from vram_llm.engine.inputs.tokenize import PromptTokenizer
from vram_llm.engine.request import Request
from vram_llm.errors import ContextExceeded, RequestError
from vram_llm.llama.model import LoadedModel


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = with_vocabulary(dense())
    for number, name in enumerate(("pre", "suf", "mid"), 1000):
        model.metadata[f"tokenizer.ggml.fim_{name}_token_id"] = number
    return write_loadable(model, tmp_path_factory.mktemp("fim") / "fim.gguf")


@pytest.fixture
def model(path: Path, plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    with loaded(plan_on_cpu(path)) as model:
        yield model


def test_a_gap_between_text_and_suffix(model: LoadedModel) -> None:
    intake, vocab = PromptTokenizer(model.vocab, 512), model.vocab
    head, tail = (vocab.tokenize(text, add_special=False) for text in ("def f(x):", "return y"))
    wanted = [vocab.bos, 1000, *head, 1001, *tail, 1002]
    assert intake.tokens(Request(id="a", prompt="def f(x):", suffix="return y")) == wanted
    assert intake.tokens(Request(id="a", prompt=tuple(head), suffix="return y")) == wanted
    marked = intake.tokens(Request(id="a", prompt="<s>", suffix="</s>"))
    assert [marked.count(token) for token in (vocab.bos, vocab.eos)] == [1, 0]  # they stay text
    with pytest.raises(
        ContextExceeded, match="'suffix' has 40,000 bytes and the context's 512 tokens hold 2,560"
    ):
        intake.tokens(Request(id="a", prompt="a", suffix="b" * 40_000))


def test_a_vocabulary_without_such_tokens(plan_on_cpu: PlanOnCpu) -> None:
    with loaded(plan_on_cpu()) as model:
        with pytest.raises(RequestError, match="no tokens to fill a gap with") as refusal:
            PromptTokenizer(model.vocab, 512).tokens(Request(id="a", prompt="a", suffix="b"))
        assert refusal.value.param == "suffix"
