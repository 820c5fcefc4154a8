"""Long texts are tokenized by other threads, can be cancelled, and are refused where llama.cpp would fail."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import GREEDY, any_steps, loaded, make_request, tokens_of
from tests.patience import PATIENCE_S
from vram_llm import demo
from vram_llm.engine import wire
from vram_llm.engine.inputs.text_tokenizer import Cancellation, TextTokenizer, TokenizerThreads
from vram_llm.engine.inputs.vocabulary_questions import VocabularyQuestions
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Request, TokenEvent
from vram_llm.errors import RequestError
from vram_llm.llama.model import LoadedModel

LONG = "One long text.\n" * 180  # more than a step tokenizes


@pytest.fixture(scope="module")
def model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    with loaded(plan_on_cpu(n_ctx=16384)) as model:
        yield model


def test_begin_and_end_tokens_are_at_the_ends_alone(model: LoadedModel) -> None:
    text = "</s>\n" * 10_000
    tokens = TextTokenizer(model.vocab).tokens(text, Cancellation(), add_special=True)
    assert tokens == model.vocab.tokenize(text, add_special=True)


def test_a_cancelled_text_is_not_tokenized_to_its_end(model: LoadedModel) -> None:
    cancellation = Cancellation()
    cancellation.is_requested = True
    with pytest.raises(CancelledError):
        TextTokenizer(model.vocab).tokens(LONG, cancellation, add_special=False)


def test_no_more_is_tokenized_than_fits(model: LoadedModel) -> None:
    tokens = TextTokenizer(model.vocab).tokens("\n" * 100_000, Cancellation(), add_special=False, most=10_000)
    assert 10_000 < len(tokens) < 30_000


def test_a_run_that_overflows_stacks_is_refused(plan_on_cpu: PlanOnCpu) -> None:
    with loaded(plan_on_cpu(demo.path())) as model:
        tokenizer = TextTokenizer(model.vocab)
        for unit in (" ", "a", "1", "="):
            with pytest.raises(RequestError, match="of one kind") as refusal:
                tokenizer.tokens("x1 " + unit * 140_000, Cancellation(), add_special=False)
            assert "break the run up" in str(refusal.value)
        assert tokenizer.tokens("a1 = " * 30_000, Cancellation(), add_special=False)


def test_streams_go_on_while_a_long_text_is_tokenized(model: LoadedModel) -> None:
    loop, release = Loop(model), threading.Event()
    for _ in range(2):  # both threads are busy
        loop.threads.submit(lambda _: release.wait(PATIENCE_S))
    assert loop.submit(make_request("stream", max_tokens=30)) is None
    requests = [make_request(name, LONG, max_tokens=3) for name in ("long", "twin", "cancelled")]
    assert [loop.submit(request) for request in requests] == [None] * 3
    seen: dict[str, list[TokenEvent]] = {name: [] for name in ("long", "twin", "cancelled", "stream")}
    for event in any_steps(loop):
        seen[event.id].append(event)
        if len(tokens_of(seen["stream"])) == 20:
            assert not seen["long"]
            loop.cancel("cancelled")
            release.set()
    assert len(tokens_of(seen["stream"])) == 30
    assert len(tokens_of(seen["long"])) == 3
    assert tokens_of(seen["long"]) == tokens_of(seen["twin"])
    assert not seen["cancelled"]
    expected = model.vocab.tokenize(LONG, add_special=True)
    assert seen["long"][-1].prompt_tokens == len(expected)


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(model: LoadedModel) -> None:
    loop = Loop(model)
    text = "w" * (16384 * model.vocab.longest_bytes + 1)
    assert loop.submit(Request(id="a", prompt=text, sampling=GREEDY)) is None
    (event,) = any_steps(loop)
    assert event.error_code == "context_length_exceeded"
    assert f"has {len(text):,} bytes" in (event.error or "")


def test_questions_are_answered_and_cancelled(model: LoadedModel) -> None:
    threads, release, answers = TokenizerThreads(), threading.Event(), []
    answered = threading.Event()

    def send(message: wire.FromEngine) -> None:
        answers.append(message)
        if len(answers) == 2:
            answered.set()

    questions = VocabularyQuestions(model.vocab, threads, send)
    for _ in range(2):
        threads.submit(lambda _: release.wait(PATIENCE_S))
    tokens = model.vocab.tokenize(LONG, add_special=False)
    for name in ("dropped", "kept"):
        questions.ask(wire.Tokenize(name, LONG, add_special=False, parse_special=True))
    questions.cancel("dropped")
    questions.ask(wire.Detokenize("pieces", tokens))
    release.set()
    assert answered.wait(PATIENCE_S)
    by_id = {answer.id: answer for answer in answers if isinstance(answer, wire.Tokens | wire.Pieces)}
    assert by_id.keys() == {"kept", "pieces"}
    assert by_id["kept"] == wire.Tokens("kept", tokens)
    assert isinstance(by_id["pieces"], wire.Pieces)
    assert by_id["pieces"].pieces == [model.vocab.spelling(token) for token in tokens]
