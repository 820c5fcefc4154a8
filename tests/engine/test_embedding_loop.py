"""Embeddings compared with llama.cpp's own, made one text at a time by its bindings."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import BertWordPieceTokenizer

from tests.conftest import PlanOnCpu
from tests.engine.harness import loaded
from tools.random_bert import word_pieces, write_bert
from vram_llm.engine import embedding_loop
from vram_llm.engine.embedding_loop import Embedder
from vram_llm.engine.inputs.text_tokenizer import Cancellation
from vram_llm.engine.request import EmbeddingRequest
from vram_llm.engine.rerank_prompt import rerank_tokens
from vram_llm.engine.wire import Embedded
from vram_llm.model.pooling import Pooling
from vram_llm.planner.types import FlashAttention

TEXTS = ("the house", "A dog walks over the hill, slowly.", "river", "Ünïcode and unbelievable words")
Rows = npt.NDArray[np.float32]
Make = Callable[..., Embedder]


@pytest.fixture
def make(plan_on_cpu: PlanOnCpu) -> Iterator[Make]:
    """Makes an embedder of the model at `path`; the rest is Workload's."""
    with ExitStack() as models:

        def load(path: Path, **workload: Any) -> Embedder:
            return Embedder(models.enter_context(loaded(plan_on_cpu(path, **workload))))

        yield load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bert")


@pytest.fixture(scope="module")
def bert(folder: Path) -> Path:
    return write_bert(folder / "bert.gguf")


def answers(embedder: Embedder, *requests: EmbeddingRequest) -> dict[str, Embedded]:
    """Every request's answer, in the order they were complete."""
    found = {}
    for request in requests:
        if (refusal := embedder.submit(request)) is not None:
            found[refusal.id] = refusal
    while not embedder.is_idle:
        found |= {answer.id: answer for answer in embedder.step()}
    return found


def rows(answer: Embedded) -> Rows:
    assert answer.error is None
    return np.frombuffer(answer.vectors, np.float32).reshape(len(answer.n_tokens), -1)


def embedded(embedder: Embedder, *inputs: str | tuple[int, ...], query: str | None = None) -> Rows:
    return rows(answers(embedder, EmbeddingRequest(id="a", inputs=inputs, query=query))["a"])


def by_bindings(path: Path, inputs: list[str], **options: Any) -> Rows:
    model = llama_cpp.Llama(
        str(path), embedding=True, n_ctx=512, n_ubatch=512, n_threads=1, n_threads_batch=1, verbose=False,
        **options,
    )  # fmt: skip
    found = np.array([model.embed(text) for text in inputs], np.float32)
    model.close()
    return found


def of_length_1(vectors: Rows) -> Rows:
    unit: Rows = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS])
def test_a_bert_gives_what_llama_cpp_gives(make: Make, folder: Path, pooling: Pooling) -> None:
    path = write_bert(folder / f"{pooling}.gguf", pooling=gguf.PoolingType[pooling.name])
    expected = by_bindings(path, list(TEXTS))
    np.testing.assert_allclose(of_length_1(embedded(make(path), *TEXTS)), of_length_1(expected), atol=1e-5)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST, Pooling.CLS])
def test_a_generative_model_gives_what_llama_cpp_gives(
    make: Make, tiny_model: Path, pooling: Pooling
) -> None:
    kind = {"mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN, "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS}
    expected = by_bindings(
        tiny_model, list(TEXTS), pooling_type=kind.get(pooling, llama_cpp.LLAMA_POOLING_TYPE_LAST)
    )
    found = embedded(make(tiny_model, pooling=pooling, flash_attn=FlashAttention.OFF), *TEXTS)
    np.testing.assert_allclose(of_length_1(found), of_length_1(expected), atol=1e-5)


def test_the_vocabulary_is_word_piece(make: Make, bert: Path) -> None:
    tokenizer = BertWordPieceTokenizer({piece: i for i, piece in enumerate(word_pieces())})
    answer = answers(make(bert), EmbeddingRequest(id="a", inputs=TEXTS))["a"]
    assert answer.n_tokens == [len(tokenizer.encode(text).ids) for text in TEXTS]
    as_ids = [tuple(tokenizer.encode(text).ids) for text in TEXTS]
    np.testing.assert_array_equal(embedded(make(bert), *as_ids), rows(answer))


def test_a_text_longer_than_a_batch(make: Make, tiny_model: Path) -> None:
    long = tuple(int(token) for token in np.random.default_rng(1).integers(3, 320, 300))
    wish = {"pooling": Pooling.LAST, "flash_attn": FlashAttention.OFF}
    whole = embedded(make(tiny_model, **wish), long)
    in_parts = embedded(make(tiny_model, n_ubatch=64, **wish), long, (1, 50), long)
    np.testing.assert_allclose(of_length_1(in_parts[0]), of_length_1(whole[0]), atol=1e-5)
    np.testing.assert_array_equal(in_parts[2], in_parts[0])


def test_many_texts_share_steps_and_requests_take_turns(make: Make, bert: Path) -> None:
    embedder = make(bert)
    many = EmbeddingRequest(id="many", inputs=tuple(f"the {i} houses" for i in range(200)))
    one = EmbeddingRequest(id="one", inputs=("a river",))
    found = answers(embedder, many, one)
    assert list(found) == ["one", "many"]
    assert embedder.stats().n_steps < 20
    alone = embedded(embedder, "the 150 houses")
    np.testing.assert_allclose(of_length_1(rows(found["many"])[150]), of_length_1(alone[0]), atol=1e-5)


def test_a_cancelled_request_is_not_answered(make: Make, bert: Path) -> None:
    embedder = make(bert)
    assert embedder.submit(EmbeddingRequest(id="a", inputs=TEXTS * 100)) is None
    assert embedder.step() == []
    embedder.cancel("a")
    assert embedder.is_idle
    embedder.cancel("unknown")
    assert list(answers(embedder, EmbeddingRequest(id="b", inputs=TEXTS))) == ["b"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ((5,) * 513, "'input[1]' is too large: it has 513 tokens and a text may have 512"),
        ("x" * 50_000, "'input[1]' is too large: it has 50,000 characters and the 512 tokens of a"),
        ((2000,), "token id 2000 in 'input[1]' is outside the vocabulary"),
    ],
)
def test_refusals(make: Make, bert: Path, text: Any, sentence: str) -> None:
    embedder = make(bert, n_ctx=4096)
    answer = answers(embedder, EmbeddingRequest(id="a", inputs=("good", text)))["a"]
    assert sentence in (answer.error or "")
    assert answer.error_param == "input"
    assert answer.error_n_ctx == (None if text == (2000,) else 512)
    assert embedded(embedder, (5,) * 512).shape == (1, 64)


def test_a_reranker_scores_pairs(make: Make, folder: Path) -> None:
    path = write_bert(folder / "rank.gguf", pooling=gguf.PoolingType.RANK)
    embedder = make(path)
    scores = embedded(embedder, *TEXTS, query="Where is the dog?")
    assert scores.shape == (len(TEXTS), 1)
    tokenizer = BertWordPieceTokenizer({piece: i for i, piece in enumerate(word_pieces())})
    asked = tokenizer.encode("Where is the dog?").ids  # with [CLS] and [SEP] around it
    pairs = [(*asked, *tokenizer.encode(text).ids[1:-1]) for text in TEXTS]
    np.testing.assert_array_equal(embedded(embedder, *pairs), scores)
    assert len({float(score) for score in scores[:, 0]}) == len(TEXTS)


@pytest.mark.parametrize("ends_texts", [False, True])
def test_the_end_of_a_long_text_is_left_out_on_request(make: Make, folder: Path, ends_texts: bool) -> None:
    """As many leading tokens as fit, and the special token that ends a text in this model."""
    path = write_bert(folder / "long.gguf", pooling=gguf.PoolingType.RANK, ends_texts=ends_texts)
    embedder = make(path)
    vocab, long = embedder._model.vocab, "river " * 600
    tokenize = partial(vocab.tokenize, add_special=False)
    for text in (long, long * 1000):
        whole = rerank_tokens(vocab, tokenize, None, "where?", long)
        kept = (*whole[:511], whole[-1] if ends_texts else whole[511])
        request = EmbeddingRequest(id="a", inputs=(text,), query="where?", truncates=True)
        answer = answers(embedder, request)["a"]
        assert answer.n_tokens == [512]
        np.testing.assert_array_equal(rows(answer), embedded(embedder, kept))
    alone = EmbeddingRequest(id="a", inputs=(long,), truncates=True)
    whole = embedder._model.vocab.tokenize(long, add_special=True)
    np.testing.assert_array_equal(
        rows(answers(embedder, alone)["a"]), embedded(embedder, (*whole[:511], whole[-1]))
    )
    asked = EmbeddingRequest(id="a", inputs=("good",), query=long, truncates=True)
    assert "is too large" in (answers(embedder, asked)["a"].error or "")


def test_a_long_document_is_cut_within_a_rerankers_template(make: Make, bert: Path) -> None:
    embedder = make(bert)
    embedder._tokens._template = "{document} after {query}"
    request = EmbeddingRequest(id="a", inputs=("river " * 600,), query="the house", truncates=True)
    tokens = embedder._tokens.of_input(request, 0, Cancellation())
    assert isinstance(tokens, list)
    after = embedder._model.vocab.tokenize("after the house", add_special=False)
    assert (len(tokens), tokens[-len(after) :]) == (512, after)


def test_a_rerankers_own_template(make: Make, bert: Path) -> None:
    vocab = make(bert)._model.vocab
    tokenize = partial(vocab.tokenize, add_special=False)
    template = "{document} after {query} {document}"
    tokens = rerank_tokens(vocab, tokenize, template, "the {document}", "river")
    assert tokens == vocab.tokenize("river after the {document} river", add_special=False)


def test_clients_share_the_steps(make: Make, bert: Path) -> None:
    embedder = make(bert, pooling=Pooling.MEAN)
    n_step = embedder._parallel
    for i in range(7):
        embedder.submit(EmbeddingRequest(id=f"a{i}", inputs=(TEXTS[0],) * 3 * n_step, client="a"))
    embedder.step()
    embedder.submit(EmbeddingRequest(id="b", inputs=(TEXTS[0],) * 2 * n_step, client="b"))
    embedder.submit(EmbeddingRequest(id="c", inputs=(TEXTS[0],) * 2 * n_step, client="c"))
    embedder.cancel("c")
    while not (done := embedder.step()):
        pass
    assert [answer.id for answer in done] == ["b"]  # it has half of each step
    assert len(answers(embedder)) == 7
    assert not embedder._shares.clients


def test_without_pooling_each_token_has_a_vector(make: Make, bert: Path) -> None:
    """Their means are the vectors of mean pooling, by batches of several texts."""
    by_token, pooled = make(bert, pooling=Pooling.NONE), make(bert, pooling=Pooling.MEAN)
    request = EmbeddingRequest(id="a", inputs=TEXTS)
    answer, means = answers(by_token, request)["a"], embedded(pooled, *TEXTS)
    vectors = np.frombuffer(answer.vectors, np.float32).reshape(sum(answer.n_tokens), -1)
    assert vectors.shape[1] == means.shape[1]
    ends = np.cumsum(answer.n_tokens)
    for text, mean in zip(np.split(vectors, ends[:-1]), means, strict=True):
        np.testing.assert_allclose(text.mean(axis=0), mean, atol=1e-4)
    for given, part in zip(TEXTS, np.split(vectors, ends[:-1]), strict=True):
        alone = answers(by_token, EmbeddingRequest(id="a", inputs=(given,)))["a"]
        row = np.frombuffer(alone.vectors, np.float32).reshape(len(part), -1)
        np.testing.assert_allclose(row, part, atol=1e-4)


def test_too_many_vectors_of_tokens_are_refused(
    make: Make, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = make(bert, pooling=Pooling.NONE)
    n_tokens = answers(embedder, EmbeddingRequest(id="a", inputs=TEXTS))["a"].n_tokens
    most = sum(n_tokens) - 1
    monkeypatch.setattr(embedding_loop, "MAX_VECTORS_BYTES", most * 4 * embedder._width)
    refused = answers(embedder, EmbeddingRequest(id="b", inputs=TEXTS))["b"]
    assert f"have {most + 1} tokens together, and a request gets the vectors of {most} at" in str(
        refused.error
    )
    fewer = answers(embedder, EmbeddingRequest(id="c", inputs=TEXTS[1:]))["c"]
    assert (fewer.error, fewer.n_tokens) == (None, n_tokens[1:])
