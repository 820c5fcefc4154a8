"""The engine's reports on a prompt before its first token."""

from collections.abc import Iterator

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import any_steps, drain, loaded, make_request, run
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Grammar, GrammarKind, Request, TokenEvent

PROMPT = (1, *range(10, 159))  # 150 tokens: three steps of at most 64


@pytest.fixture
def loop(plan_on_cpu: PlanOnCpu) -> Iterator[Loop]:
    """Steps of at most 64 tokens."""
    with loaded(plan_on_cpu(n_batch=64, n_ubatch=64)) as model:
        yield Loop(model)


def request(name: str, *, reports_progress: bool = True, grammar: Grammar | None = None) -> Request:
    return make_request(name, PROMPT, max_tokens=3, grammar=grammar, reports_progress=reports_progress)


def progress(news: list[TokenEvent]) -> list[tuple[int | None, int, int]]:
    return [(e.prompt_done, e.prompt_tokens, e.cached_tokens) for e in news if e.prompt_done is not None]


def test_the_acceptance_and_each_part_of_a_prompt_are_reported(loop: Loop) -> None:
    accepted = loop.submit(request("first"))
    assert accepted == TokenEvent(id="first", prompt_tokens=150, prompt_done=0)
    news = list(any_steps(loop))
    assert progress(news) == [(64, 150, 0), (128, 150, 0)]
    assert [bool(event.token_ids) for event in news][:2] == [False, False]
    assert news[-1].completion_tokens == 3


def test_a_prompt_computed_earlier_counts_as_cached(loop: Loop) -> None:
    run(loop, request("first"))
    news = run(loop, request("second"))["second"]
    assert progress(news) == [(0, 150, 0)]  # one step is enough for the rest
    assert news[-1].cached_tokens == 149


def test_no_progress_events_unless_requested(loop: Loop) -> None:
    assert progress(run(loop, request("plain", reports_progress=False))["plain"]) == []


def test_a_request_with_a_grammar_is_accepted_once_that_is_compiled(loop: Loop) -> None:
    good = Grammar(kind=GrammarKind.CHOICE, text='["a", "b"]', field="guided_choice")
    bad = Grammar(kind=GrammarKind.GBNF, text="root ::= (", field="grammar")
    assert loop.submit(request("good", grammar=good)) is None
    assert loop.submit(request("bad", grammar=bad)) is None
    news = {"good": list[TokenEvent](), "bad": list[TokenEvent]()}
    drain(loop, news)
    assert progress(news["good"])[0] == (0, 150, 0)
    (refused,) = news["bad"]
    assert (refused.error_param, refused.prompt_done) == ("grammar", None)
