"""Budgets of thinking, minimum lengths and stop tokens of a request, on real models."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, GREEDY, full_steps, loaded, make_request, run, text_of, tokens_of
from vram_llm import demo
from vram_llm.engine.generation import Generation
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import (
    FinishReason,
    Grammar,
    GrammarKind,
    ReasoningBudget,
    Request,
    SamplingParams,
)
from vram_llm.engine.sampling.token_rules import ThinkingBudget, token_rules
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import BackendSampling

HOT = SamplingParams(temperature=1.5, top_k=40, repeat_penalty=1.1, seed=1)
OPENED = ReasoningBudget(n_tokens=6, opening="<think>", closing="</think>", opened=True)


@pytest.fixture(scope="module")
def demo_model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    with loaded(plan_on_cpu(demo.path(), n_ctx=1024, parallel=8, **EXACT)) as model:
        yield model


@pytest.fixture(scope="module")
def spm_model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    """It has no token for a mark: a mark takes several."""
    with loaded(plan_on_cpu(n_ctx=1024, parallel=8, **EXACT)) as model:
        yield model


@pytest.fixture(params=["demo_model", "spm_model"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    found: LoadedModel = request.getfixturevalue(request.param)
    return found


def _request(name: str = "one", **options: Any) -> Request:
    given: dict[str, Any] = {"prompt": "Say.<think>\n", "max_tokens": 40, "marks": ("<think>", "</think>")}
    return make_request(name, **given | options)


def _closing(model: LoadedModel) -> list[int]:
    return model.vocab.tokenize_inside("</think>", parse_special=True)


def _n_thought(model: LoadedModel, tokens: list[int]) -> int:
    """Tokens before the closing mark, without a part of the mark that the model wrote itself."""
    ends = (
        i for i in range(len(tokens)) if b"</think>" in b"".join(map(model.vocab.spelling, tokens[: i + 1]))
    )
    return next(ends) + 1 - len(_closing(model))


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
def test_thinking_ends_with_its_budget(model: LoadedModel, sampling: SamplingParams) -> None:
    """A stream without a budget runs with it and gets the same answer as alone."""
    closing = _closing(model)
    bias = dict.fromkeys(range(0 if len(closing) > 1 else closing[0], closing[-1] + 1), -100.0)
    never = SamplingParams(temperature=sampling.temperature, seed=1, logit_bias=bias)
    sampling = never if len(closing) == 1 else sampling
    request = _request(reasoning_budget=OPENED, sampling=sampling)
    answer = run(Loop(model), request)["one"]
    tokens = tokens_of(answer)
    assert 6 <= _n_thought(model, tokens) <= 9  # a character is finished
    assert len(tokens) == 40
    assert text_of(answer).count("</think>") >= 1


def test_a_budget_of_0_closes_at_once(model: LoadedModel) -> None:
    budget = ReasoningBudget(n_tokens=0, opening="<think>", closing="</think>", opened=True)
    answer = run(Loop(model), _request(reasoning_budget=budget))["one"]
    closing = _closing(model)
    assert tokens_of(answer)[: len(closing)] == closing


def test_drafts_change_nothing(demo_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither drafts with the closing mark nor drafts without it."""
    request = _request(reasoning_budget=OPENED)
    plain = tokens_of(run(Loop(demo_model), request)["one"])

    def foreseen(self: Generation, sequence: Any, most: int) -> list[int]:
        at = sequence.n_generated
        draft = plain[at : at + 3] if at % 2 else [5, 6]
        return draft[: max(min(most, sequence.n_left - 1), 0)]

    monkeypatch.setattr(Generation, "draft", foreseen)
    loop = Loop(demo_model)
    assert tokens_of(run(loop, request)["one"]) == plain
    assert loop.stats().n_accepted_tokens > 5


def test_steps_are_steady_while_all_tokens_are_free(demo_model: LoadedModel) -> None:
    """The tokens are those of full steps, with drafts switched off."""
    budget = ReasoningBudget(n_tokens=30, opening="<think>", closing="</think>", opened=True)
    never = SamplingParams(temperature=0, logit_bias=dict.fromkeys(_closing(demo_model), -100.0))
    request = _request(reasoning_budget=budget, max_tokens=100, sampling=never)
    usual, short = Loop(demo_model), Loop(demo_model)
    for loop in (usual, short):
        assert loop.submit(request) is None
        loop._generations["one"].lookup = None
    told = list(full_steps(usual))
    tokens, n_short, n_long = [], 0, 0
    while not short.is_idle:
        tick, news = short.step()
        tokens += [*(tick.tokens if tick else []), *tokens_of(news)]
        n_short += tick is not None
        n_long += tick is None
    assert tokens == tokens_of(told)
    assert 30 <= _n_thought(demo_model, tokens) <= 33
    assert n_long < 20 < n_short


def test_a_budget_that_cannot_be_spent_makes_no_rules(demo_model: LoadedModel) -> None:
    assert token_rules(demo_model.vocab, _request(reasoning_budget=OPENED, max_tokens=6)) is None
    assert token_rules(demo_model.vocab, _request(reasoning_budget=OPENED, max_tokens=7)) is not None


def test_a_preempted_request_does_not_think_longer(plan_on_cpu: PlanOnCpu) -> None:
    with loaded(plan_on_cpu(n_ctx=256, parallel=4, n_batch=64, n_ubatch=16)) as model:
        budget = ReasoningBudget(n_tokens=30, opening="<think>", closing="</think>", opened=True)
        requests = [
            _request(f"r{i}", prompt=(5 + i,) * 50, max_tokens=100, reasoning_budget=budget) for i in range(6)
        ]
        loop = Loop(model)
        for answer in run(loop, *requests).values():
            assert 30 <= _n_thought(model, tokens_of(answer)) <= 33
        assert loop.stats().n_preemptions > 1


def test_the_host_samples_requests_with_token_rules(plan_on_cpu: PlanOnCpu) -> None:
    with loaded(plan_on_cpu(n_ctx=512, backend_sampling=BackendSampling.ON)) as model:
        loop = Loop(model)
        sampling = SamplingParams(temperature=0.8, seed=3)
        answers = run(
            loop,
            _request("budget", reasoning_budget=OPENED, sampling=sampling),
            _request("least", min_tokens=5, sampling=sampling),
            _request("free", sampling=sampling),
        )
        assert 6 <= _n_thought(model, tokens_of(answers["budget"])) <= 9
        assert loop.stats().n_device_tokens == 40


def test_the_end_waits_for_min_tokens(model: LoadedModel) -> None:
    sampling = SamplingParams(temperature=0, logit_bias=dict.fromkeys(model.vocab.ends, 100.0))
    for n in (0, 7):
        request = _request(min_tokens=n, sampling=sampling, ignore_eos=False)
        answer = run(Loop(model), request)["one"]
        assert answer[-1].finish_reason is FinishReason.STOP
        assert answer[-1].completion_tokens == n + 1


def test_a_stop_token_of_the_request_ends_it(model: LoadedModel) -> None:
    """It is not shown, and waits for min_tokens as the model's own end does."""
    last = model.vocab.tokenize("z", add_special=False)[-1]
    sampling = SamplingParams(temperature=0, logit_bias={last: 100.0})
    for n in (0, 5):
        request = _request(min_tokens=n, sampling=sampling, stop_token_ids=(last,))
        answer = run(Loop(model), request)["one"]
        assert answer[-1].finish_reason is FinishReason.STOP
        assert tokens_of(answer)[n:] == [last]
        assert not text_of(answer).endswith("z")


def _follow(thinking: ThinkingBudget, model: LoadedModel, text: str) -> list[list[int]]:
    """The tokens that were due after each token of `text`."""
    due = []
    for token in model.vocab.tokenize_inside(text, parse_special=True):
        thinking.accept(token)
        due.append(list(thinking.due))
    return due


def test_thinking_that_begins_in_the_answer(demo_model: LoadedModel) -> None:
    budget = ReasoningBudget(n_tokens=3, opening="<think>", closing="</think>", opened=False)
    thinking = ThinkingBudget(demo_model.vocab, budget)
    due = _follow(thinking, demo_model, "\n<think>aaaa bbbb cccc dddd eeee")
    n_opening = len(demo_model.vocab.tokenize_inside("\n<think>", parse_special=True))
    assert [bool(each) for each in due[: n_opening + 3]] == [False] * (n_opening + 2) + [True]


def test_an_answer_without_thinking_is_not_followed(demo_model: LoadedModel) -> None:
    budget = ReasoningBudget(n_tokens=0, opening="<think>", closing="</think>", opened=False)
    thinking = ThinkingBudget(demo_model.vocab, budget)
    assert not any(_follow(thinking, demo_model, "The word <think> opens it."))
    assert thinking.is_over


def test_thinking_that_ends_in_time_is_left_alone(demo_model: LoadedModel) -> None:
    thinking = ThinkingBudget(demo_model.vocab, OPENED)
    assert not any(_follow(thinking, demo_model, "ab</think>" + "long " * 20))
    assert thinking.is_over


def test_thinking_in_several_places_shares_a_budget(spm_model: LoadedModel) -> None:
    budget = ReasoningBudget(n_tokens=8, opening="<a>", closing="</a>", opened=False, again=True)
    thinking = ThinkingBudget(spm_model.vocab, budget)
    assert not any(_follow(thinking, spm_model, "<a>xy</a>answer"))
    assert any(_follow(thinking, spm_model, "<a>zzzzzzzzzzzz"))
    assert not thinking.is_over


def test_a_mark_half_written_is_finished(spm_model: LoadedModel) -> None:
    vocab = spm_model.vocab
    n = len(vocab.tokenize_inside("x</th", parse_special=True))
    budget = ReasoningBudget(n_tokens=n, opening="<think>", closing="</think>", opened=True)
    thinking = ThinkingBudget(vocab, budget)
    due = _follow(thinking, spm_model, "x</th")[-1]
    assert b"".join(vocab.spelling(token) for token in due) == b"ink>"


def test_a_mark_that_a_grammar_does_not_let_through_waits(model: LoadedModel) -> None:
    """For example within a call."""
    grammar = Grammar(kind=GrammarKind.REGEX, text="z{20}</think>end", field="grammar")
    answer = run(Loop(model), _request(reasoning_budget=OPENED, grammar=grammar))["one"]
    assert answer[-1].finish_reason is FinishReason.STOP
    assert text_of(answer) == "z" * 20 + "</think>end"


def test_a_request_without_token_rules(demo_model: LoadedModel) -> None:
    assert token_rules(demo_model.vocab, _request(stop_token_ids=(3,))) is None
