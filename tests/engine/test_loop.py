"""The engine's loop on a real tiny model: a sequence gets the same answer among others as alone, and all end.

Nothing is shared between requests here (see test_reuse.py), so that an idle engine holds no cells. Past 400
lines because answers, ends, refusals and cancellations all need the one model that is made here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.fixed_prefill import FixedPrefill
from tests.engine.harness import (
    EXACT,
    Events,
    drain,
    forget_all,
    full_step,
    loaded,
    make_request,
    run,
    text_of,
    tokens_of,
    write_f32,
)
from tests.engine.rounding import assert_same
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, SamplingParams, TokenEvent
from vram_llm.errors import EngineDied
from vram_llm.llama.model import NO_ROOM, LoadedModel
from vram_llm.planner.types import Serving

ALONE = Serving(cache_reuse=0)
SMALL: dict[str, Any] = {"n_batch": 64, "n_ubatch": 16, **EXACT}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_f32(tmp_path_factory.mktemp("loop") / "f32.gguf")


@pytest.fixture(scope="module")
def shared(plan_on_cpu: PlanOnCpu, path: Path) -> Iterator[LoadedModel]:
    """512 cells, four sequences, steps of 64 tokens, prompts beside streams in chunks of 16."""
    with loaded(plan_on_cpu(path, serving=ALONE, **SMALL)) as model:
        yield model


@pytest.fixture
def model(shared: LoadedModel) -> Iterator[LoadedModel]:
    """The shared model; what a test leaves in its cache is forgotten."""
    yield shared
    forget_all(shared)


@pytest.fixture
def loop(model: LoadedModel) -> Loop:
    return Loop(model)


def _prompts(n: int, least: int = 3, most: int = 70) -> list[tuple[int, ...]]:
    pick = np.random.default_rng(4)
    return [(1, *map(int, pick.integers(3, 320, pick.integers(least, most)))) for _ in range(n)]


def _one(loop: Loop, **options: Any) -> list[TokenEvent]:
    return run(loop, make_request("one", **options))["one"]


# -- the same answers ----------------------------------------------------------------------------


def test_a_sequence_gets_the_same_answer_among_others_as_alone(loop: Loop, model: LoadedModel) -> None:
    prompts = _prompts(12)
    requests = [make_request(f"r{i}", prompt, max_tokens=24) for i, prompt in enumerate(prompts)]
    alone = [tokens_of(run(loop, request)[request.id]) for request in requests]
    among = [tokens_of(answer) for answer in run(loop, *requests).values()]
    assert all(len(tokens) == 24 for tokens in alone)
    assert len({tuple(tokens) for tokens in alone}) == len(alone)
    for prompt, a, b in zip(prompts, alone, among, strict=True):
        assert_same(model, prompt, a, b)


def test_sampled_answers_depend_only_on_their_seeds(loop: Loop) -> None:
    """Each sequence has a sampler of its own: other sequences do not advance it."""
    sampling = SamplingParams(temperature=0.3, top_p=0.9, top_k=20, seed=9, presence_penalty=0.5)
    request = make_request("r", max_tokens=20, sampling=sampling)
    alone = tokens_of(run(loop, request)["r"])
    others = [
        make_request(f"o{i}", prompt, sampling=SamplingParams(seed=i), max_tokens=20)
        for i, prompt in enumerate(_prompts(3, 2, 9))
    ]
    assert tokens_of(run(loop, request)["r"]) == alone
    assert tokens_of(run(loop, *others, request)["r"]) == alone


def test_requests_that_outgrow_the_cells_all_finish(plan_on_cpu: PlanOnCpu, path: Path) -> None:
    """Twelve of up to 110 tokens in 256 cells: the youngest are preempted, and no answer changes."""
    with loaded(plan_on_cpu(path, n_ctx=256, parallel=8, serving=ALONE, **SMALL)) as model:
        prompts = _prompts(12, 20, 50)
        requests = [make_request(f"r{i}", prompt, max_tokens=60) for i, prompt in enumerate(prompts)]
        loop = Loop(model)
        answers = run(loop, *requests)
        assert loop.stats().n_preemptions > 3
        for prompt, request in zip(prompts, requests, strict=True):
            answer = answers[request.id]
            assert answer[-1].finish_reason is FinishReason.LENGTH
            assert (answer[-1].prompt_tokens, answer[-1].completion_tokens) == (len(prompt), 60)
            assert_same(model, prompt, tokens_of(run(loop, request)[request.id]), tokens_of(answer))


def test_with_a_cache_of_its_own_a_sequence_has_its_share_and_no_more(
    plan_on_cpu: PlanOnCpu, path: Path, shared: LoadedModel
) -> None:
    """Four caches of 256 cells: prompts that fill them, all at once, get the answers of one cache."""
    with loaded(plan_on_cpu(path, n_ctx=1024, kv_unified=False, **SMALL)) as model:
        assert (model.n_ctx, model.n_ctx_seq) == (1024, 256)
        loop = Loop(model)
        refusal = loop.submit(make_request("long", (5,) * 256))
        assert refusal is not None
        assert "the context holds 256" in (refusal.error or "")
        prompts = [(7 + i, *range(3, 3 + 60 * i)) for i in range(4)]
        answers = run(
            loop, *(make_request(f"r{i}", prompt, max_tokens=None) for i, prompt in enumerate(prompts))
        )
        for i, prompt in enumerate(prompts):
            answer = answers[f"r{i}"]
            assert answer[-1].finish_reason is FinishReason.LENGTH
            assert answer[-1].completion_tokens == 255 - 60 * i
            alone = run(Loop(shared), make_request("alone", prompt, max_tokens=24))["alone"]
            assert_same(shared, prompt, tokens_of(alone), tokens_of(answer)[:24])
        assert loop._scheduler.n_preemptions == 0


def test_preempted_sequences_leave_nothing_behind(plan_on_cpu: PlanOnCpu, path: Path) -> None:
    with loaded(plan_on_cpu(path, n_ctx=256, serving=ALONE, **SMALL)) as model:
        loop = Loop(model)
        run(loop, *(make_request(f"r{i}", (5 + i,) * 50, max_tokens=100) for i in range(6)))
        assert loop.stats().n_preemptions > 1
        assert _is_empty(model)


def test_if_llama_cpp_finds_no_room_the_step_is_tried_again(
    loop: Loop, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = _prompts(4, 10, 30)
    requests = [make_request(f"r{i}", prompt, max_tokens=15) for i, prompt in enumerate(prompts)]
    alone = [tokens_of(run(loop, request)[request.id]) for request in requests]
    decode, n_calls = model.decode, 0

    def stingy() -> int:
        nonlocal n_calls
        n_calls += 1
        return NO_ROOM if n_calls % 3 == 0 and len(loop._scheduler.running) > 1 else decode()

    monkeypatch.setattr(model, "decode", stingy)
    answers = run(loop, *requests)
    assert loop.stats().n_preemptions > 1
    monkeypatch.undo()
    for prompt, a, answer in zip(prompts, alone, answers.values(), strict=True):
        assert_same(model, prompt, a, tokens_of(answer))


def test_a_batch_that_llama_cpp_refuses_is_tried_smaller(
    loop: Loop, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = _prompts(4, 10, 60)
    requests = [make_request(f"r{i}", prompt, max_tokens=15) for i, prompt in enumerate(prompts)]
    alone = [tokens_of(run(loop, request)[request.id]) for request in requests]
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda: NO_ROOM if model.batch.n_rows > 9 else decode())
    answers = run(loop, *requests)
    assert loop.stats().n_preemptions == 0
    monkeypatch.undo()
    for prompt, a, answer in zip(prompts, alone, answers.values(), strict=True):
        assert_same(model, prompt, a, tokens_of(answer))


@pytest.mark.parametrize(("status", "n_rows"), [(NO_ROOM, 1), (2, 3), (-1, 3), (-3, 3)])
def test_a_step_that_llama_cpp_cannot_run_ends_the_engine(
    loop: Loop, model: LoadedModel, monkeypatch: pytest.MonkeyPatch, status: int, n_rows: int
) -> None:
    monkeypatch.setattr(model, "decode", lambda: status)
    assert loop.submit(make_request("r")) is None
    with pytest.raises(EngineDied, match=rf"could not run a batch of {n_rows} tokens \(code {status}\)"):
        full_step(loop)


# -- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7])
def test_max_tokens(loop: Loop, n: int) -> None:
    answer = _one(loop, max_tokens=n)
    assert [len(event.token_ids) for event in answer] == [1] * n
    assert [event.finish_reason for event in answer] == [None] * (n - 1) + [FinishReason.LENGTH]
    assert (answer[-1].prompt_tokens, answer[-1].completion_tokens) == (3, n)


def test_max_tokens_0_computes_the_prompt_and_no_more(loop: Loop) -> None:
    (event,) = _one(loop, prompt=tuple(range(3, 203)), max_tokens=0)
    assert event == TokenEvent(id="one", prompt_tokens=200, finish_reason=FinishReason.LENGTH, slot=0)


@pytest.mark.parametrize(("n_prompt", "n_answer"), [(511, 1), (510, 2), (500, 12)])
@pytest.mark.parametrize("max_tokens", [None, 1000])
def test_the_context_ends_an_answer(loop: Loop, n_prompt: int, n_answer: int, max_tokens: int | None) -> None:
    answer = _one(loop, prompt=(5,) * n_prompt, max_tokens=max_tokens)
    assert len(tokens_of(answer)) == n_answer
    assert answer[-1].finish_reason is FinishReason.LENGTH


def test_two_that_each_fill_the_context_run_one_after_the_other(loop: Loop) -> None:
    news = run(loop, make_request("a", (5,) * 400), make_request("b", (6,) * 400))
    assert [len(tokens_of(answer)) for answer in news.values()] == [112, 112]


EOS = 2
ENDS = SamplingParams(temperature=0, logit_bias={EOS: 100.0})


def test_an_end_token_ends_and_writes_nothing(loop: Loop) -> None:
    answer = _one(loop, sampling=ENDS, ignore_eos=False, max_tokens=5)
    assert answer == [
        TokenEvent(
            id="one",
            token_ids=(EOS,),
            prompt_tokens=3,
            completion_tokens=1,
            finish_reason=FinishReason.STOP,
            slot=0,
        )
    ]


def test_ignore_eos_goes_on(loop: Loop) -> None:
    answer = _one(loop, sampling=ENDS, max_tokens=5)
    assert (tokens_of(answer), text_of(answer)) == ([EOS] * 5, "")
    assert answer[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(("skip", "text"), [(True, ""), (False, "</s></s></s>")])
def test_special_tokens_are_shown_on_demand(loop: Loop, skip: bool, text: str) -> None:
    assert text_of(_one(loop, sampling=ENDS, max_tokens=3, skip_special_tokens=skip)) == text


def _writes(model: LoadedModel, text: str) -> SamplingParams:
    """Makes every token the one that writes the single byte `text`."""
    (token,) = (t for t in range(3, 259) if model.vocab.piece(t) == text.encode())
    return SamplingParams(temperature=0, logit_bias={token: 100.0})


@pytest.mark.parametrize(
    ("stop", "text", "n_tokens", "reason"),
    [
        (("aaa",), "", 3, FinishReason.STOP),
        (("ab", "aa"), "", 2, FinishReason.STOP),
        (("ab",), "aaaaaa", 6, FinishReason.LENGTH),  # what was held back comes at the end
        (("a" * 6,), "", 6, FinishReason.STOP),
        (("a" * 7,), "aaaaaa", 6, FinishReason.LENGTH),
    ],
)
def test_stop_strings(
    loop: Loop, model: LoadedModel, stop: tuple[str, ...], text: str, n_tokens: int, reason: FinishReason
) -> None:
    answer = _one(loop, sampling=_writes(model, "a"), stop=stop, max_tokens=6)
    assert (text_of(answer), len(tokens_of(answer)), answer[-1].finish_reason) == (text, n_tokens, reason)


def test_a_stop_string_in_the_middle_of_an_answer(loop: Loop) -> None:
    whole = _one(loop, max_tokens=30)
    text = text_of(whole)
    stop = text[len(text) // 2 :][:4]
    answer = _one(loop, max_tokens=30, stop=(stop,))
    assert text_of(answer) == text[: text.index(stop)]
    assert answer[-1].finish_reason is FinishReason.STOP
    tokens = tokens_of(answer)
    assert tokens == tokens_of(whole)[: len(tokens)]
    assert len(tokens) < 30


def test_half_a_character_at_the_end_is_marked(loop: Loop, model: LoadedModel) -> None:
    (token,) = (t for t in range(3, 259) if model.vocab.piece(t) == b"\xe4")
    sampling = SamplingParams(temperature=0, logit_bias={token: 100.0})
    assert text_of(_one(loop, sampling=sampling, max_tokens=1)) == "\ufffd"


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_prompt", [512, 513, 5000])
def test_a_prompt_longer_than_the_context(loop: Loop, n_prompt: int) -> None:
    event = loop.submit(make_request("r", (5,) * n_prompt))
    assert event is not None
    assert (event.finish_reason, event.error_code) == (FinishReason.ERROR, "context_length_exceeded")
    assert event.error is not None
    assert event.error.startswith(f"the prompt has {n_prompt:,} tokens and the context holds 512;")
    assert loop.is_idle


@pytest.mark.parametrize("token", [-1, 320, 2**31, 2**63])
def test_a_token_outside_the_vocabulary(loop: Loop, token: int) -> None:
    event = loop.submit(make_request("r", (5, token)))
    assert event is not None
    assert event.error == f"token id {token} is outside the vocabulary of 320 tokens"
    assert (event.error_code, event.error_param) == ("invalid_value", "prompt")
    assert loop.is_idle


@pytest.mark.parametrize(("prompt", "add_bos"), [("", True), ("", False), ((), True)])
def test_an_empty_prompt_begins_a_text(loop: Loop, prompt: str | tuple[int, ...], add_bos: bool) -> None:
    answer = _one(loop, prompt=prompt, add_bos=add_bos, max_tokens=3)
    assert answer[-1].prompt_tokens == 1
    assert tokens_of(answer) == tokens_of(_one(loop, prompt=(1,), max_tokens=3))


@pytest.mark.parametrize(("add_bos", "more"), [(True, 1), (False, 0)])
def test_a_text_prompt_is_tokenised(loop: Loop, model: LoadedModel, add_bos: bool, more: int) -> None:
    n_tokens = len(model.vocab.tokenize("Grüße", add_special=False))
    answer = _one(loop, prompt="Grüße", add_bos=add_bos, max_tokens=1)
    assert answer[-1].prompt_tokens == n_tokens + more


def test_a_refusal_leaves_the_others_alone(loop: Loop) -> None:
    assert loop.submit(make_request("good", max_tokens=4)) is None
    assert loop.submit(make_request("bad", (999,))) is not None
    news: Events = {"good": []}
    drain(loop, news)
    assert len(tokens_of(news["good"])) == 4


# -- cancelling ----------------------------------------------------------------------------------


def test_cancelling_frees_cells_and_slot(loop: Loop, model: LoadedModel) -> None:
    """The second needs cells the first holds; after the cancel it gets them at once."""
    assert loop.submit(make_request("first", (5,) * 400)) is None
    assert loop.submit(make_request("second", (6,) * 400, max_tokens=2)) is None
    while not full_step(loop):
        pass
    loop.cancel("first")
    news: Events = {"second": []}
    drain(loop, news)
    assert len(tokens_of(news["second"])) == 2
    assert _is_empty(model)


def test_cancelling_one_that_waits(loop: Loop) -> None:
    for name in "abcdef":
        assert loop.submit(make_request(name, max_tokens=3)) is None
    full_step(loop)
    loop.cancel("f")
    news: Events = {name: [] for name in "abcde"}
    drain(loop, news)
    assert [len(tokens_of(answer)) for answer in news.values()] == [2, 2, 2, 2, 3]  # four had a token before


def test_cancelling_in_the_middle_of_a_prompt(loop: Loop, model: LoadedModel) -> None:
    assert loop.submit(make_request("r", (5,) * 300)) is None
    full_step(loop)
    loop.cancel("r")
    assert loop.is_idle
    assert _is_empty(model)


def test_cancelling_an_unknown_request(loop: Loop) -> None:
    loop.cancel("nobody")
    assert loop.is_idle
    assert full_step(loop) == []


def test_finished_requests_leave_nothing_behind(loop: Loop, model: LoadedModel) -> None:
    run(loop, *(make_request(f"r{i}", prompt, max_tokens=5) for i, prompt in enumerate(_prompts(9))))
    assert _is_empty(model)


def _is_empty(model: LoadedModel) -> bool:
    """Whether every KV cell is free, found out by filling them all."""
    statuses = []
    for start in range(0, model.n_ctx, model.n_batch):
        model.batch.clear()
        model.batch.add([5] * model.n_batch, start, 3, n_outputs=0)
        statuses.append(model.decode())
    model.forget(3)
    return statuses == [0] * (model.n_ctx // model.n_batch)


def test_a_prompt_longer_than_a_step_beside_streams(loop: Loop) -> None:
    """The streams get a token in every step while the prompt is computed."""
    loop._scheduler.prefill = FixedPrefill(with_streams=16)
    for name in "abc":
        assert loop.submit(make_request(name, max_tokens=40)) is None
    full_step(loop)
    assert loop.submit(make_request("long", (7,) * 200, max_tokens=1)) is None
    steps = []
    while "long" not in (seen := {event.id for event in full_step(loop)}):
        steps.append(seen)
    assert all(seen == {"a", "b", "c"} for seen in steps)
    assert len(steps) == 200 // 16


def test_the_model_of_these_tests_varies_its_answers(loop: Loop) -> None:
    """Its weights are random, yet its answers vary: a mix-up of sequences would show."""
    answer = tokens_of(_one(loop, max_tokens=40))
    assert len(set(answer)) > 10
