"""Answers that end by their lines, candidates after sampling, and the prompt's text, with llama.cpp."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import (
    Steps,
    any_steps,
    forget_all,
    full_steps,
    loaded,
    make_request,
    run,
    text_of,
    tokens_of,
)
from vram_llm.engine.answer_text import LineLimitedText, answer_text
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, SamplingParams
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.vocab import TextStream


@pytest.fixture(scope="module")
def shared(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    with loaded(plan_on_cpu(n_ctx=512, parallel=2)) as model:
        yield model


@pytest.fixture
def model(shared: LoadedModel) -> Iterator[LoadedModel]:
    yield shared
    forget_all(shared)


class Pieces:
    """A vocabulary of these pieces of text, in order."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = pieces

    def piece(self, token: int) -> bytes:
        return self._pieces[token].encode()


def written(pieces: Sequence[str], **options: Any) -> tuple[str, bool]:
    """The text of an answer, and whether a line ended it. A second passes with each token."""
    times = iter(range(100))
    settings: dict[str, Any] = {"n_indent": 0, "time_s": None, **options}
    vocab: Any = Pieces(pieces)
    text = LineLimitedText(vocab, (), clock=lambda: float(next(times)), **settings)
    found = "".join(text.push(token) for token in range(len(pieces)))
    return found + text.finish(), text.stopped


@pytest.mark.parametrize(
    ("n_indent", "pieces", "kept", "is_cut"),
    [
        (4, ["a\n    b\n    c"], "a\n    b\n    c", False),
        (4, ["a\n    b\n  c", "d"], "a\n    b\n  ", True),
        (4, ["a\n\n    b"], "a\n", True),
        (1, ["a\n\tb", "\nc"], "a\n\tb\n", True),
        (2, ["x", "\n", " ", " ", "y", "\n", " ", "z"], "x\n  y\n ", True),
        (9, ["no line end"], "no line end", False),
        (3, ["a\n  "], "a\n  ", False),
    ],
)
def test_a_line_with_too_few_spaces(n_indent: int, pieces: list[str], kept: str, is_cut: bool) -> None:
    assert written(pieces, n_indent=n_indent) == (kept, is_cut)


@pytest.mark.parametrize(("time_s", "kept"), [(0.5, "a\n"), (100.0, "a\nb\nc\n"), (None, "a\nb\nc\n")])
def test_a_line_end_that_is_too_late(time_s: float | None, kept: str) -> None:
    assert written(["a", "\n", "b", "\n", "c", "\n"], time_s=time_s) == (kept, kept == "a\n")


def test_others_have_a_plain_text(model: LoadedModel) -> None:
    assert type(answer_text(model.vocab, make_request("a"))) is TextStream
    assert type(answer_text(model.vocab, make_request("a", n_indent=1))) is LineLimitedText


@pytest.mark.parametrize("steps", [any_steps, full_steps])
def test_an_answer_ends_at_its_line(model: LoadedModel, steps: Steps) -> None:
    """A bias makes the model write a line end, which is too late from the first token on."""
    line_end = model.vocab.tokenize_inside("\n", parse_special=False)[-1]
    sampling = SamplingParams(temperature=0, logit_bias={line_end: 100.0})
    usual = make_request("a", sampling=sampling, max_tokens=40)
    late = make_request("b", sampling=sampling, max_tokens=40, line_time_s=0.0)
    shallow = make_request("c", sampling=sampling, max_tokens=40, n_indent=1)
    events = run(Loop(model), usual, late, shallow, steps=steps)
    assert [events[name][-1].finish_reason for name in "abc"] == [FinishReason.LENGTH] * 3
    assert text_of(events["a"]) == "\n" * 40
    assert text_of(events["c"]) == "\n"
    assert 1 <= len(tokens_of(events["b"])) < 40
    assert events["b"][-1].completion_tokens == len(tokens_of(events["b"]))


def test_the_prompts_text(model: LoadedModel) -> None:
    whole = make_request("a", "Hello you", max_tokens=2, returns_prompt=True)
    events = run(Loop(model), whole, make_request("b", "Hello you", max_tokens=2))
    expected = b"".join(map(model.vocab.spelling, model.vocab.tokenize("Hello you", add_special=True)))
    assert [event.prompt for event in events["a"][:-1]] == [None] * (len(events["a"]) - 1)
    assert events["a"][-1].prompt == expected.decode()
    assert events["b"][-1].prompt is None


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_probabilities_after_all_samplers(model: LoadedModel, temperature: float) -> None:
    sampling = SamplingParams(temperature=temperature, top_k=3, seed=5)
    options: dict[str, Any] = {"sampling": sampling, "max_tokens": 12}
    both = [make_request("plain", **options), make_request("post", logprobs=9, post_sampling=True, **options)]
    events = run(Loop(model), *both)
    assert tokens_of(events["plain"]) == tokens_of(events["post"])
    for likelihood in (each for event in events["post"] for each in event.logprobs):
        assert len(likelihood.top) == (1 if temperature == 0 else 3)
        assert likelihood.chosen in likelihood.top
