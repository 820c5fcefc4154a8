"""Prompts of POST /infill, token by token as llama-server's format_prompt_infill builds them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import loaded, make_request, run
from tests.zoo.loadable import dense, with_vocabulary, write_loadable
from vram_llm.engine.inputs.infill import infill_tokens
from vram_llm.engine.inputs.tokenize import PromptTokenizer
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Infill, Request, TokenEvent
from vram_llm.errors import ContextExceeded, RequestError
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.vocab import Vocab
from vram_llm.model.fim_tokens import FimTokens

FIM = {"pre": 1000, "suf": 1001, "mid": 1002, "pad": 1003, "rep": 1004, "sep": 1005}
GAP = Infill(prefix="def f(x):\n", suffix="return y\n", files=(("a.py", "one"), ("b.py", "two <s>")))


def write(folder: Path, names: tuple[str, ...]) -> Path:
    """A model with these fill-in-the-middle tokens."""
    model = with_vocabulary(dense())
    for name in names:
        model.metadata[f"tokenizer.ggml.fim_{name}_token_id"] = FIM[name]
    return write_loadable(model, folder / f"{'-'.join(names)}.gguf")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    path = write(tmp_path_factory.mktemp("fim"), tuple(FIM))
    with loaded(plan_on_cpu(path, n_ctx=4096)) as model:
        yield model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    """Without tokens for repositories and files."""
    path = write(tmp_path_factory.mktemp("plain"), ("pre", "suf", "mid"))
    with loaded(plan_on_cpu(path, n_ctx=512)) as model:
        yield model


def text(vocab: Vocab, *parts: str) -> list[int]:
    """The tokens of texts, one after the other."""
    return [token for part in parts for token in vocab.tokenize(part, add_special=False, parse_special=False)]


def built(vocab: Vocab, gap: Infill, *, n_batch: int = 2048, room: int = 8, n_ctx: int = 4096) -> list[int]:
    def tokenize(part: str) -> list[int]:
        return text(vocab, part)

    begun = text(vocab, "    y")
    return infill_tokens(vocab, gap, begun, tokenize, n_batch=n_batch, room=room, n_ctx=n_ctx)


def test_the_tokens_of_a_vocabulary(model: LoadedModel, plain: LoadedModel) -> None:
    assert model.vocab.fim == FimTokens(*FIM.values())
    assert plain.vocab.fim == FimTokens(1000, 1001, 1002)
    assert model.vocab.fim.can_fill
    assert not FimTokens(1, 2).can_fill


def test_the_pattern_of_a_repository(model: LoadedModel) -> None:
    vocab = model.vocab
    files = [
        1004, *text(vocab, "myproject\n"), 1005, *text(vocab, "a.py\n", "one"), 1005,
        *text(vocab, "b.py\n", "two <s>"), 1005, *text(vocab, "filename\n"),
    ]  # fmt: skip
    around = [1000, *text(vocab, "def f(x):\n", "    y"), 1001, *text(vocab, "return y\n")]
    assert built(vocab, GAP) == [*files, vocab.bos, *around, 1002]
    assert built(vocab, replace(GAP, files=()))[: len(text(vocab, "myproject\n")) + 2][-1] == 1005


def test_files_without_their_token(plain: LoadedModel) -> None:
    vocab = plain.vocab
    mark = "\n\n--- snippet ---\n\n"
    around = [1000, *text(vocab, "def f(x):\n", "    y"), 1001, *text(vocab, "return y\n")]
    expected = [*text(vocab, mark, "one", mark, "two <s>"), vocab.bos, *around, 1002]
    assert built(vocab, GAP) == expected


def test_the_suffix_first(plain: LoadedModel) -> None:
    vocab = plain.vocab
    expected = [
        vocab.bos, 1001, *text(vocab, "return y\n"), 1000, *text(vocab, "def f(x):\n", "    y"), 1002,
    ]  # fmt: skip
    assert built(vocab, replace(GAP, files=(), suffix_first=True)) == expected


def test_long_texts_keep_what_is_next_to_the_gap(plain: LoadedModel) -> None:
    """Of 256 tokens around the gap the prefix has at most 192, the suffix 64 with the text in it."""
    vocab = plain.vocab
    gap = Infill(prefix="before " * 400, suffix="after " * 400, files=(("a", "one"), ("b", "file " * 900)))
    tokens = built(vocab, gap, n_batch=256, room=8, n_ctx=512)
    assert len(tokens) < 512 - 8
    at_prefix, at_suffix = tokens.index(1000), tokens.index(1001)
    begun = text(vocab, "    y")
    prefix, suffix = tokens[at_prefix + 1 : at_suffix - len(begun)], tokens[at_suffix + 1 : -1]
    assert 192 - 24 < len(prefix) <= 192
    assert prefix == text(vocab, gap.prefix)[-len(prefix) :]
    assert suffix == text(vocab, gap.suffix)[: 64 - 2 - len(begun)]
    files = tokens[: at_prefix - 1]
    assert len(files) == 512 - 256 - 2 * 8 - 8
    assert files == text(vocab, gap.files[1][1])[-len(files) :]


def test_a_long_prefix_begins_at_the_same_place_while_it_grows(plain: LoadedModel) -> None:
    vocab = plain.vocab
    starts = set()
    for n in range(400, 404):
        tokens = built(vocab, Infill(prefix="before " * n, suffix=""), n_batch=512)
        starts.add(len(text(vocab, "before " * n)) - (tokens.index(1001) - tokens.index(1000)))
    assert len(starts) <= 2


def test_the_next_request_computes_only_what_is_new(model: LoadedModel) -> None:
    loop = Loop(model)
    done: list[TokenEvent] = []
    for name, prefix in (("a", "def f(x):\n"), ("b", "def f(x):\n    y = ")):
        gap = replace(GAP, prefix=prefix, files=(("a.py", "one " * 30),))
        request = make_request(name, "", infill=gap, max_tokens=2)
        done += run(loop, request)[name][-1:]
    assert done[1].cached_tokens > done[1].prompt_tokens // 2
    assert done[0].cached_tokens == 0


def test_prompts_of_requests(model: LoadedModel, plain: LoadedModel, plan_on_cpu: PlanOnCpu) -> None:
    intake = PromptTokenizer(model.vocab, 4096, 512)
    request = Request(id="a", prompt="    y", infill=GAP, max_tokens=8)
    assert intake.tokens(request) == built(model.vocab, GAP, n_batch=512)
    assert intake.is_short(request)
    assert not intake.is_short(replace(request, infill=replace(GAP, files=(("a", "x" * 3000),))))
    with pytest.raises(ContextExceeded):
        PromptTokenizer(model.vocab, 64, 64).tokens(replace(request, prompt="y " * 100))


@pytest.mark.parametrize(("n_ctx", "max_tokens"), [(64, None), (256, 16), (512, 10_000), (4096, 0)])
def test_it_always_fits(model: LoadedModel, n_ctx: int, max_tokens: int | None) -> None:
    gap = Infill(prefix="before " * 3000, suffix="after " * 3000, files=(("a", "file " * 3000),))
    tokens = PromptTokenizer(model.vocab, n_ctx, 512).tokens(
        Request(id="a", prompt="", infill=gap, max_tokens=max_tokens)
    )
    assert len(tokens) < n_ctx


def test_a_vocabulary_without_such_tokens(plan_on_cpu: PlanOnCpu) -> None:
    options: dict[str, Any] = {"infill": GAP}
    with loaded(plan_on_cpu()) as bare, pytest.raises(RequestError, match="no tokens to fill a gap with"):
        PromptTokenizer(bare.vocab, 512).tokens(Request(id="a", prompt="", **options))
