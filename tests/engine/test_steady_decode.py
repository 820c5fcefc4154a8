"""Steady steps: the same tokens, texts, ends and stats as with full steps."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import (
    EXACT,
    any_steps,
    forget_all,
    full_steps,
    loaded,
    make_request,
    turns,
    write_f32,
)
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import (
    DecodeTick,
    FinishReason,
    Grammar,
    GrammarKind,
    Request,
    SamplingParams,
    TokenEvent,
)
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.engine.stats import EngineStats
from vram_llm.engine.steady_decode import MAX_STEPS
from vram_llm.llama.model import NO_ROOM, LoadedModel
from vram_llm.planner.types import Serving


@pytest.fixture(scope="module")
def shared(plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """A tiny model in float32: 1024 cells, eight sequences, nothing shared between requests."""
    path = write_f32(tmp_path_factory.mktemp("run") / "f32.gguf")
    with loaded(plan_on_cpu(path, n_ctx=1024, parallel=8, serving=Serving(cache_reuse=0), **EXACT)) as model:
        yield model


@pytest.fixture
def model(shared: LoadedModel) -> Iterator[LoadedModel]:
    yield shared
    forget_all(shared)


def _request(name: str, **options: Any) -> Request:
    pick = np.random.default_rng(sum(map(ord, name)))
    prompt = (1, *map(int, pick.integers(3, 320, 9)))
    return make_request(name, prompt, **{"max_tokens": 60, **options})


def _submit(model: LoadedModel, *requests: Request) -> Loop:
    loop = Loop(model)
    for request in requests:
        assert loop.submit(request) is None
    return loop


def _told(news: Iterator[TokenEvent]) -> dict[str, list[Any]]:
    """Of each request: its text, its tokens, and how it ended."""
    told: dict[str, list[Any]] = {}
    for event in news:
        mine = told.setdefault(event.id, ["", [], None])
        assert mine[2] is None  # nothing follows an end
        mine[0] += event.text
        mine[1] += event.token_ids
        if event.finish_reason is not None:
            totals = (event.prompt_tokens, event.completion_tokens, event.cached_tokens)
            mine[2] = (event.finish_reason, event.stop, totals)
    return told


def _counts(figures: EngineStats) -> tuple[int, ...]:
    return (figures.n_steps, figures.n_generated_tokens, figures.n_prompt_tokens, figures.n_cells_used)


# -- the same as by the usual way ----------------------------------------------------------------


def test_steady_and_full_steps_give_the_same(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy and drawn, with end tokens, stop strings, and characters of several tokens.

    Without drafts: with steady steps they come at other steps, and other batches round differently.
    """
    monkeypatch.setattr(PromptLookup, "draft", lambda *_: [])
    alone = _told(any_steps(_submit(model, _request("stops"))))["stops"][0]
    requests = [
        *(_request(f"greedy{i}", max_tokens=40 + 7 * i) for i in range(3)),
        _request("drawn", sampling=SamplingParams(seed=3, top_p=0.9)),
        _request("chain", sampling=SamplingParams(seed=4, top_k=20, presence_penalty=0.4)),
        _request("stops", stop=(alone[40:43],)),
        _request(
            "ends", ignore_eos=False, sampling=SamplingParams(seed=8, temperature=3.0, logit_bias={2: 9.0})
        ),
        _request("shown", skip_special_tokens=False, sampling=SamplingParams(seed=8, temperature=3.0)),
    ]
    usual, short = _submit(model, *requests), _submit(model, *requests)
    by_usual, by_short = _told(full_steps(usual)), _told(any_steps(short))
    assert by_short == by_usual
    assert by_short["stops"][2][:2] == (FinishReason.STOP, alone[40:43])
    assert by_short["ends"][2][0] is FinishReason.STOP
    assert any(not text.isascii() for text, _, _ in by_short.values())
    assert _counts(short.stats()) == _counts(usual.stats())


def test_most_steps_of_streams_that_decode_are_steady(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PromptLookup, "draft", lambda *_: [])
    loop = _submit(model, *(_request(f"r{i}", max_tokens=100) for i in range(8)))
    n_full = n_steady = n_runs = 0
    while not loop.is_idle:
        tick, _ = loop.step()
        n_full += tick is None
        n_steady += tick is not None
        n_runs += tick is not None and bool(tick.ids)
    assert n_steady > 85
    assert n_runs >= n_steady / MAX_STEPS
    assert n_full + n_steady == loop.stats().n_steps


def test_a_stream_that_may_draft_decodes_steadily_while_its_text_is_new(model: LoadedModel) -> None:
    loop = _submit(model, _request("new", sampling=SamplingParams(seed=5, temperature=3.0), max_tokens=50))
    is_steady = []
    for _ in range(45):
        is_steady.append(loop.step()[0] is not None)
        lookup = loop._generations["new"].lookup
        assert lookup is not None
        assert not lookup.tokens_until_credit
    assert is_steady.count(True) > 40


def test_a_text_that_repeats_ends_a_steady_decode_for_drafts(model: LoadedModel) -> None:
    repeats = SamplingParams(temperature=0, logit_bias={70: 99.0})
    loop = _submit(model, _request("repeats", sampling=repeats, max_tokens=50))
    first = _first_tick(loop)
    while not loop.is_idle:
        loop.step()
    stats = loop.stats()
    assert first.tokens == [70]
    assert stats.n_accepted_tokens > 25
    assert stats.n_steps < 25


def test_a_tick_names_its_requests_once(model: LoadedModel) -> None:
    loop = _submit(model, _request("a"), _request("b"))
    ticks = [_first_tick(loop)]
    while (tick := loop.step()[0]) is not None and not tick.ids:
        ticks.append(tick)
    assert ticks[0].ids == ["a", "b"]
    assert len(ticks) > 1
    assert all(not tick.ids and len(tick.tokens) == 2 for tick in ticks[1:])


def test_a_request_that_wants_more_than_tokens_gets_full_steps(model: LoadedModel) -> None:
    grammar = Grammar(kind=GrammarKind.REGEX, text="[a-z]{40}", field="regex")
    for options in ({"logprobs": 1}, {"grammar": grammar}):
        loop = _submit(model, _request("plain"), _request("more", **options))
        seen = set()
        while not loop.is_idle:
            tick, step_events = loop.step()
            assert tick is None or "more" in seen
            seen |= {event.id for event in step_events if event.finish_reason is not None}


# -- what comes between --------------------------------------------------------------------------


def _first_tick(loop: Loop) -> DecodeTick:
    """The tick of the first steady step."""
    while (tick := loop.step()[0]) is None:
        pass
    return tick


def _in_a_run(loop: Loop) -> None:
    """Run two steady steps, which are not committed yet."""
    _first_tick(loop)
    assert loop.step()[0] is not None


def test_a_new_request_is_admitted_at_the_next_step(model: LoadedModel) -> None:
    loop = _submit(model, _request("a"), _request("b"))
    _in_a_run(loop)
    loop.submit(_request("new", max_tokens=2))
    tick, step_events = loop.step()
    assert tick is None
    assert {event.id for event in step_events} == {"a", "b", "new"}


def test_a_new_request_without_a_free_slot_does_not_end_a_steady_decode(model: LoadedModel) -> None:
    loop = _submit(model, *(_request(f"r{i}") for i in range(8)))
    _in_a_run(loop)
    loop.submit(_request("late"))
    assert loop.step()[0] is not None


def test_a_cancelled_request_frees_all_it_holds(model: LoadedModel) -> None:
    requests = [_request(name) for name in "abc"]
    alone = _told(any_steps(_submit(model, *requests)))
    loop = _submit(model, *requests)
    _in_a_run(loop)
    used = loop.stats().n_cells_used
    loop.cancel("b")
    assert loop.stats().n_cells_used < used
    rest = _told(event for news in turns(loop) for event in news)
    assert rest.keys() == {"a", "c"}
    assert all(rest[name][2] == alone[name][2] for name in rest)
    assert all(alone[name][0].endswith(rest[name][0]) for name in rest)
    assert loop.stats().n_cells_used == 0


def test_cells_that_run_out_end_a_steady_decode_in_time(model: LoadedModel) -> None:
    """Eight of up to 250 tokens in 1024 cells: some are preempted, and all get the answers of full steps."""
    requests = [_request(f"r{i}", max_tokens=240) for i in range(8)]
    usual, short = _submit(model, *requests), _submit(model, *requests)
    by_usual, by_short = _told(full_steps(usual)), _told(any_steps(short))
    assert all(loop.stats().n_preemptions > 0 for loop in (usual, short))
    assert {name: told[2] for name, told in by_short.items()} == {
        name: told[2] for name, told in by_usual.items()
    }


def test_a_step_that_finds_no_room_becomes_a_full_step(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [_request("a"), _request("b")]
    alone = _told(any_steps(_submit(model, *requests)))
    loop = _submit(model, *requests)
    decode, n_calls = LoadedModel.decode, 0

    def refuses_some(self: LoadedModel) -> int:
        nonlocal n_calls
        n_calls += 1
        has_room = n_calls % 7 or len(loop._scheduler.running) == 1  # alone, a stream cannot give way
        return decode(self) if has_room else NO_ROOM

    monkeypatch.setattr(LoadedModel, "decode", refuses_some)
    assert _told(any_steps(loop)) == alone


# -- its parts -----------------------------------------------------------------------------------


def test_argmax_of_all_rows_is_the_argmax_of_each(model: LoadedModel) -> None:
    model.batch.clear()
    model.batch.add_singles([5, 6, 7, 8], [0] * 4, [0, 1, 2, 3], [1] * 4)
    assert model.decode() == 0
    assert model.argmax(4) == [int(model.logits(row).argmax()) for row in range(4)]
    assert model.argmax(3) == model.argmax(4)[:3]
