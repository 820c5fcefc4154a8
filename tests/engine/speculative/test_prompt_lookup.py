"""Drafts from a sequence's own tokens: which tokens are drafted, and that no answer changes."""

import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import (
    EXACT,
    GREEDY,
    full_steps,
    loaded,
    make_request,
    run,
    text_of,
    tokens_of,
    write_f32,
)
from tests.engine.rounding import assert_same
from tests.zoo.loadable import LOADABLE, write_loadable
from vram_llm.engine.generation import Generation
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, Request, SamplingParams
from vram_llm.engine.sampling.choose_sampler import SamplerFactory
from vram_llm.engine.sequence import Sequence
from vram_llm.engine.speculative.prompt_lookup import (
    EARNED_PER_TOKEN,
    MAX_INDEXED,
    START_CREDIT,
    PromptLookup,
)
from vram_llm.engine.speculative.row_cost import RowCost
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.vocab import TextStream, Vocab
from vram_llm.planner.types import Serving


@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2, 3], [4, 5, 6, 1]),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], [5, 1, 2, 3]),  # as it went on the last time
        ([7, 7, 7, 7], [7, 7, 7, 7]),  # a loop goes round
        ([1, 2, 1, 2, 1, 2], [1, 2, 1, 2]),
        ([9, 1, 2, 3, 1, 2, 3, 1], [2, 3, 1, 2]),
        ([1, 2, 3, 4, 5], []),
        ([1, 2, 3], []),
        ([], []),
    ],
)
def test_the_draft_is_the_last_continuation(tokens: list[int], draft: list[int]) -> None:
    assert _trusted().draft(tokens, 4) == draft
    assert _trusted().draft(tokens, 2) == draft[:2]
    assert _trusted().draft(tokens, 0) == []


def _trusted() -> PromptLookup:
    """A lookup whose earlier drafts were accepted."""
    lookup = PromptLookup()
    lookup.observe(4, 4)
    return lookup


def _observe(lookup: PromptLookup, draft: list[int], n_accepted: int) -> None:
    if draft:
        lookup.observe(len(draft), n_accepted)
    else:
        lookup.earn_credit(1)


def test_tokens_indexed_one_by_one_give_the_draft_of_all_at_once() -> None:
    pick = random.Random(3)
    tokens = [pick.randrange(4) for _ in range(300)]
    growing = _trusted()
    for n in range(1, len(tokens)):
        assert growing.draft(tokens[:n], 4) == _trusted().draft(tokens[:n], 4)


def test_tokens_noted_one_by_one_have_a_draft_where_all_at_once_have_one() -> None:
    pick = random.Random(4)
    tokens = [pick.randrange(5) for _ in range(200)]
    for n_first in (1, 2, 3, 50):
        noting = _trusted()
        assert noting.follow(tokens[:n_first]) == bool(_trusted().draft(tokens[:n_first], 1))
        for n in range(n_first + 1, len(tokens)):
            assert noting.note(tokens[n - 1]) == bool(_trusted().draft(tokens[:n], 1))
        assert noting.draft(tokens[:-1], 4) == _trusted().draft(tokens[:-1], 4)


def test_long_prompts_are_looked_through_at_their_end() -> None:
    tokens = [1, 2, 3, 4, *range(10, 10 + MAX_INDEXED), 1, 2, 3]
    assert PromptLookup().draft(tokens, 4) == []
    assert PromptLookup().draft(tokens[9:], 4) == []
    assert PromptLookup().draft(tokens[-50:] * 2, 1) == [tokens[-50]]


def test_success_makes_drafts_longer() -> None:
    lookup, lengths = PromptLookup(), []
    for _ in range(6):
        lengths.append(len(lookup.draft([7] * 50, 100)))
        lookup.observe(lengths[-1], lengths[-1])
    assert lengths == [1, 2, 4, 8, 16, 16]


@pytest.mark.parametrize(("n_streams", "gain"), [(1, 1.5), (2, 0.75), (3, 0.5), (8, 0.1875)])
def test_the_gain_of_an_accepted_draft_falls_with_the_streams(n_streams: int, gain: float) -> None:
    """In a step of 3 + 2 n milliseconds, an accepted draft saves its share of the 3."""
    cost = RowCost()
    assert cost.gain == 1
    for n_drafted in (0, 1, 0, 4, 0, 2):
        cost.observe(n_streams, n_drafted, 0.003 + 0.002 * (n_streams + n_drafted))
    assert cost.gain == pytest.approx(gain)


def test_drafts_of_little_gain_must_nearly_always_be_accepted() -> None:
    pick, cost = random.Random(6), RowCost()
    for n_drafted in (0, 1):
        cost.observe(8, n_drafted, 0.003 + 0.002 * (8 + n_drafted))
    lookup, n_drafted, n_steps = PromptLookup(cost), 0, 500
    for _ in range(n_steps):
        draft = lookup.draft([7] * 50, 8)
        _observe(lookup, draft, next((i for i in range(len(draft)) if pick.random() > 0.8), len(draft)))
        n_drafted += len(draft)
    assert 0 < n_drafted < 0.1 * n_steps


def test_a_draft_comes_after_tokens_until_credit() -> None:
    lookup = PromptLookup(cost := RowCost())
    lookup.observe(1, 0)
    said, n_rested = lookup.tokens_until_credit, 0
    while lookup.tokens_until_credit:
        assert lookup.draft([7] * 50, 8) == []
        lookup.earn_credit(1)
        n_rested += 1
    assert lookup.draft([7] * 50, 8) == [7]
    assert n_rested == pytest.approx(said, abs=1)
    assert said == pytest.approx(1 / (EARNED_PER_TOKEN * cost.worth_trying), abs=1)


def test_if_drafts_are_rejected_the_next_sequence_tries_few() -> None:
    """If they are accepted again, the sequence after it tries as many as ever."""
    cost = RowCost()
    for _ in range(20):
        PromptLookup(cost).observe(1, 0)
    assert 50 < PromptLookup(cost).tokens_until_credit < 100
    for _ in range(20):
        PromptLookup(cost).observe(4, 4)
    assert PromptLookup(cost).tokens_until_credit < 5


def test_with_many_streams_the_first_draft_comes_late() -> None:
    cost = RowCost()
    assert PromptLookup(cost).tokens_until_credit == 0
    cost.observe(8, 0, 0.01)
    assert PromptLookup(cost).tokens_until_credit > 100


@pytest.mark.parametrize("accepted", [0.0, 0.2, 0.45])
def test_the_cost_of_rejected_drafts_is_bounded(accepted: float) -> None:
    """For any text, rejected rows are at most the starting credit and the credit earned since."""
    pick, lookup, tokens = random.Random(5), PromptLookup(), [1, 2, 3] * 5
    n_refused = n_accepted = n_plain = 0
    for _ in range(5000):
        draft = lookup.draft(tokens, 8)
        stands = next((i for i in range(len(draft)) if pick.random() > accepted), len(draft))
        _observe(lookup, draft, stands)
        n_refused, n_accepted = n_refused + len(draft) - stands, n_accepted + stands
        n_plain += not draft
    assert n_refused <= START_CREDIT + EARNED_PER_TOKEN * n_plain + n_accepted
    if not accepted:
        assert n_refused < 0.05 * 5000
    assert n_refused > 0


# -- in the engine -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_f32(tmp_path_factory.mktemp("drafts") / "f32.gguf")


@pytest.fixture(scope="module")
def model(plan_on_cpu: PlanOnCpu, path: Path) -> Iterator[LoadedModel]:
    with loaded(plan_on_cpu(path, n_outputs_max=16, serving=Serving(cache_reuse=0), **EXACT)) as model:
        yield model


def _answer(model: LoadedModel, **options: Any) -> tuple[list[int], str, FinishReason | None, Loop]:
    loop = Loop(model)
    events = run(loop, make_request("r", **{"max_tokens": 60, **options}), steps=full_steps)["r"]
    counts = accumulate(len(event.token_ids) for event in events)
    assert [event.completion_tokens for event in events] == list(counts)
    return tokens_of(events), text_of(events), events[-1].finish_reason, loop


@pytest.fixture
def undrafted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answers without drafts."""

    def answer(model: LoadedModel, **options: Any) -> tuple[list[int], str, FinishReason | None, Loop]:
        with monkeypatch.context() as patch:
            patch.setattr(Generation, "draft", lambda *_: [])
            return _answer(model, **options)

    return answer


LOOPS = SamplingParams(temperature=0, logit_bias=dict.fromkeys((60, 61, 62), 9.0))


def test_a_repetitive_answer_takes_fewer_steps(
    model: LoadedModel, undrafted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RowCost, "observe", lambda *_: None)  # rows keep their first cost
    prompt = (1, *[70, 71, 72, 73, 74] * 6)
    options = {"prompt": prompt, "sampling": LOOPS, "max_tokens": 100}
    alone, _, _, plain = undrafted(model, **options)
    tokens, _, _, loop = _answer(model, **options)
    assert_same(model, prompt, alone, tokens)
    assert (plain.stats().n_steps, plain.stats().n_drafted_tokens) == (100, 0)
    assert loop.stats().n_steps < 65
    assert loop.stats().n_accepted_tokens >= 40


class Foreseen:
    """Drafts from the known answer, right at most positions."""

    def __init__(self, answer: list[int], seed: int) -> None:
        self._answer, self._pick = answer, random.Random(seed)

    def __call__(self, generation: Generation, sequence: Sequence, most: int) -> list[int]:
        rest = self._answer[sequence.n_generated : -1][: self._pick.randint(0, most)]
        return [token if self._pick.random() < 0.8 else self._pick.randrange(3, 320) for token in rest]


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        SamplingParams(seed=5),
        SamplingParams(seed=6, top_p=0.8, temperature=0.7),
        SamplingParams(seed=7, top_k=30, repeat_penalty=1.2, presence_penalty=0.4),
        SamplingParams(seed=9, mirostat=2),
    ],
    ids=lambda sampling: f"seed {sampling.seed}",
)
def test_no_draft_changes_an_answer(
    model: LoadedModel, undrafted: Any, monkeypatch: pytest.MonkeyPatch, sampling: SamplingParams
) -> None:
    """The sampler sees each position once, in order, whatever was drafted for it.

    The model is small and its weights are float32: over 40 tokens, with these seeds, rounding changes no
    draw.
    """
    alone, text, _, _ = undrafted(model, sampling=sampling, max_tokens=40)
    for seed in range(3):
        foreseen = Foreseen(alone, seed)
        monkeypatch.setattr(Generation, "draft", lambda g, s, most, f=foreseen: f(g, s, most))
        tokens, said, reason, loop = _answer(model, sampling=sampling, max_tokens=40)
        assert (tokens, said, reason) == (alone, text, FinishReason.LENGTH)
        figures = loop.stats()
        assert figures.n_steps < 36
        assert 8 < figures.n_accepted_tokens < figures.n_drafted_tokens


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(seed=7, top_k=30, repeat_penalty=1.2, presence_penalty=0.4),
        SamplingParams(seed=8, dry_multiplier=0.8, dry_sequence_breakers=(), typical_p=0.9),
        SamplingParams(seed=9, mirostat=2),
        SamplingParams(seed=10, mirostat=1),
        SamplingParams(seed=11, xtc_probability=0.5, xtc_threshold=0.01),
        SamplingParams(seed=12, top_p=0.9, min_p=0.05),
        GREEDY,
    ],
    ids=lambda sampling: f"seed {sampling.seed}",
)
def test_samplers_see_each_position_once_and_in_order(model: LoadedModel, sampling: SamplingParams) -> None:
    """On the same rows of logits, so that rounding plays no part."""
    model.forget(0)
    model.batch.clear()
    last = model.batch.add(list(range(40, 56)), 0, 0, n_outputs=16)
    assert model.decode() == 0
    rows = range(last - 15, last + 1)
    plain, drafted = (_generation(model, sampling) for _ in range(2))
    alone = [plain.sample(model, [row], []).tokens[0] for row in rows]
    pick = random.Random(2)
    tokens: list[int] = []
    while len(tokens) < len(rows):
        left = rows[len(tokens) :]
        draft = [t if pick.random() < 0.7 else 0 for t in alone[len(tokens) : len(tokens) + 5]][
            : len(left) - 1
        ]
        tokens += drafted.sample(model, left[: len(draft) + 1], draft).tokens
    assert tokens == alone
    for generation in (plain, drafted):
        generation.sampler.close()
    model.forget(0)


def _generation(model: LoadedModel, sampling: SamplingParams) -> Generation:
    return Generation(
        request=Request(id="r", prompt=(), sampling=sampling),
        text=TextStream(model.vocab),
        sampler=SamplerFactory(model).make(sampling, [1, 2]),
        constraint=None,
        lookup=PromptLookup(),
    )


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 7, 20])
def test_a_draft_does_not_go_past_the_end(model: LoadedModel, undrafted: Any, max_tokens: int) -> None:
    prompt = (1, *[70, 71, 72, 73] * 6)
    tokens, _, reason, loop = _answer(model, prompt=prompt, sampling=LOOPS, max_tokens=max_tokens)
    assert tokens == undrafted(model, prompt=prompt, sampling=LOOPS, max_tokens=max_tokens)[0]
    assert (len(tokens), reason) == (max_tokens, FinishReason.LENGTH)
    assert loop.stats().n_drafted_tokens <= max(max_tokens - 1, 0) + 4


def test_a_stop_string_within_a_draft(
    model: LoadedModel, undrafted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, text, _, _ = undrafted(model)
    stop = (text[len(text) // 2 :][:3],)
    alone = undrafted(model, stop=stop)[:3]
    assert alone[2] is FinishReason.STOP
    foreseen = Foreseen(whole, 1)
    monkeypatch.setattr(Generation, "draft", lambda g, s, most: foreseen(g, s, most))
    assert _answer(model, stop=stop)[:3] == alone


def test_logprobs_come_with_drafted_tokens(
    model: LoadedModel, undrafted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = undrafted(model)[0]
    foreseen = Foreseen(whole, 2)
    monkeypatch.setattr(Generation, "draft", lambda g, s, most: foreseen(g, s, most))
    request = make_request("r", max_tokens=60, logprobs=1)
    events = run(Loop(model), request, steps=full_steps)["r"]
    told = [each for event in events for each in event.logprobs]
    assert [each.chosen.token for each in told] == whole
    assert [each.top[0].token for each in told] == whole
    assert max(len(event.token_ids) for event in events) > 2


@pytest.fixture
def wordless(monkeypatch: pytest.MonkeyPatch) -> None:
    """For models without a vocabulary: llama.cpp aborts if a token's text is asked for."""
    monkeypatch.setattr(Vocab, "_render", lambda *_, **__: b"")


@pytest.mark.usefixtures("wordless")
@pytest.mark.parametrize("name", ["gemma3", "gpt_oss"])
def test_a_window_survives_rejected_drafts(
    plan_on_cpu: PlanOnCpu, tmp_path: Path, undrafted: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Far past the window, so that cells outside it are reused."""
    path = write_loadable(LOADABLE[name](), tmp_path / "window.gguf", "F32")
    with loaded(
        plan_on_cpu(path, n_ctx=1024, n_ubatch=64, parallel=1, serving=Serving(cache_reuse=0), **EXACT)
    ) as model:
        assert model.cells.can_rewind
        prompt = (1, *map(int, np.random.default_rng(2).integers(3, 200, 300)))
        alone = undrafted(model, prompt=prompt, max_tokens=250)[0]
        foreseen = Foreseen(alone, 3)
        monkeypatch.setattr(Generation, "draft", lambda g, s, most: foreseen(g, s, most))
        tokens, _, _, loop = _answer(model, prompt=prompt, max_tokens=250)
        assert_same(model, prompt, alone, tokens)
        assert loop.stats().n_accepted_tokens > 20


@pytest.mark.usefixtures("wordless")
def test_a_model_that_cannot_rewind_gets_no_drafts(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    path = write_loadable(LOADABLE["nemotron_h"](), tmp_path / "hybrid.gguf")
    with loaded(plan_on_cpu(path, parallel=1)) as model:
        _, _, _, loop = _answer(model, prompt=(1, *[5, 6, 7] * 20), sampling=LOOPS)
        assert not model.cells.can_rewind
        assert loop.stats().n_drafted_tokens == 0
