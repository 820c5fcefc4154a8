"""What the engine reports of a prompt before its first token."""

from collections.abc import Iterator

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.turns import events
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Grammar, GrammarKind, Request, SamplingParams, TokenEvent
from vram_llm.llama.model import LoadedModel

PROMPT = (1, *range(10, 159))  # 150 tokens: three steps of at most 64


@pytest.fixture
def loop(plan_on_cpu: PlanOnCpu) -> Iterator[Loop]:
    """Steps of at most 64 tokens."""
    model = LoadedModel(plan_on_cpu(n_batch=64, n_ubatch=64))
    yield Loop(model)
    model.close()


def request(name: str, *, reports_progress: bool = True, grammar: Grammar | None = None) -> Request:
    return Request(
        id=name,
        prompt=PROMPT,
        max_tokens=3,
        ignore_eos=True,
        sampling=SamplingParams(temperature=0),
        grammar=grammar,
        reports_progress=reports_progress,
    )


def progress(news: list[TokenEvent]) -> list[tuple[int | None, int, int]]:
    return [(e.prompt_done, e.prompt_tokens, e.cached_tokens) for e in news if e.prompt_done is not None]


def test_the_acceptance_and_each_part_of_a_prompt_are_reported(loop: Loop) -> None:
    accepted = loop.submit(request("first"))
    assert accepted == TokenEvent(id="first", prompt_tokens=150, prompt_done=0)
    news = list(events(loop))
    assert progress(news) == [(64, 150, 0), (128, 150, 0)]
    assert [bool(event.token_ids) for event in news][:2] == [False, False]
    assert news[-1].completion_tokens == 3


def test_a_prompt_computed_earlier_counts_as_cached(loop: Loop) -> None:
    loop.submit(request("first"))
    list(events(loop))
    loop.submit(request("second"))
    news = list(events(loop))
    assert progress(news) == []  # one step is enough for the rest
    assert news[-1].cached_tokens == 149


def test_nothing_is_reported_unasked(loop: Loop) -> None:
    assert loop.submit(request("plain", reports_progress=False)) is None
    assert progress(list(events(loop))) == []


def test_a_request_with_a_grammar_is_accepted_once_that_is_compiled(loop: Loop) -> None:
    good = Grammar(kind=GrammarKind.CHOICE, text='["a", "b"]', field="guided_choice")
    bad = Grammar(kind=GrammarKind.GBNF, text="root ::= (", field="grammar")
    assert loop.submit(request("good", grammar=good)) is None
    assert loop.submit(request("bad", grammar=bad)) is None
    news = list(events(loop))
    assert progress([event for event in news if event.id == "good"])[0] == (0, 150, 0)
    (refused,) = [event for event in news if event.id == "bad"]
    assert (refused.error_param, refused.prompt_done) == ("grammar", None)
