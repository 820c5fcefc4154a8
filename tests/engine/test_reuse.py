"""Requests with a common beginning, on models of three kinds of memory: the same answers, computed once."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import (
    EXACT,
    Events,
    empty,
    full_step,
    loaded,
    make_request,
    run,
    tokens_of,
    write_f32,
)
from tests.engine.rounding import assert_same
from vram_llm.engine.generation import Generation
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, Request, TokenEvent
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import Serving
from vram_llm.units import MIB

pytestmark = pytest.mark.process  # computes for many seconds

N_SHARED = 400  # tokens that the prompts of these tests begin with
Answer = list[TokenEvent]


@pytest.fixture(scope="module", params=["llama", "nemotron_h", "gemma3"])
def model(
    request: pytest.FixtureRequest, plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoadedModel]:
    """Full attention; recurrent layers beside it; a sliding window of 256. Weights and cache are float32."""
    path = write_f32(tmp_path_factory.mktemp("reuse") / "f32.gguf", request.param)
    serving = Serving(slots_ram_bytes=64 * MIB)
    with loaded(plan_on_cpu(path, n_ctx=2048, n_batch=128, n_ubatch=64, serving=serving, **EXACT)) as model:
        yield model


@pytest.fixture
def loop(model: LoadedModel) -> Iterator[Loop]:
    """A loop that shares; what a test leaves is evicted."""
    loop = Loop(model)
    yield loop
    assert loop.is_idle
    empty(loop)


def _prompts(n: int, n_shared: int = N_SHARED) -> list[tuple[int, ...]]:
    pick = np.random.default_rng(n)
    shared = tuple(map(int, pick.integers(3, 320, n_shared)))
    return [(*shared, *map(int, pick.integers(3, 320, 20 + i))) for i in range(n)]


def _request(name: str, prompt: tuple[int, ...], max_tokens: int | None = 12) -> Request:
    return make_request(name, prompt, max_tokens=max_tokens)


def _run(loop: Loop, *requests: Request) -> list[Answer]:
    return list(run(loop, *requests).values())


def _alone(model: LoadedModel, prompt: tuple[int, ...], max_tokens: int = 12) -> list[int]:
    """The answer of an engine that has seen nothing else."""
    loop = Loop(model)
    (answer,) = _run(loop, _request("alone", prompt, max_tokens))
    empty(loop)
    return tokens_of(answer)


def _cached(answer: Answer) -> int:
    assert answer[-1].finish_reason is FinishReason.LENGTH
    return answer[-1].cached_tokens


def test_a_shared_beginning_is_computed_once(model: LoadedModel) -> None:
    """One after another, then several at once. Recurrent models need a checkpoint there."""
    prompts = _prompts(6)
    alone = [_alone(model, prompt) for prompt in prompts]
    loop = Loop(model)
    answers = [_run(loop, _request(f"r{i}", prompt))[0] for i, prompt in enumerate(prompts[:2])]
    answers += _run(loop, *(_request(f"s{i}", prompt) for i, prompt in enumerate(prompts[2:])))
    n_second = 340 if model.cells.is_stateful else N_SHARED
    cached = [_cached(answer) for answer in answers]
    assert cached[0] == 0
    assert n_second <= cached[1] <= N_SHARED
    assert cached[2:] == [N_SHARED] * 4
    assert len({tuple(tokens) for tokens in alone}) == len(alone)
    empty(loop)
    for prompt, expected, answer in zip(prompts, alone, answers, strict=True):
        assert_same(model, prompt, expected, tokens_of(answer))


def test_a_beginning_is_shared_within_a_namespace_alone(loop: Loop) -> None:
    """One after another, from cells and from the host, and two that compute it at once."""
    (prompt,), far = _prompts(1), 2**56 - 1
    for namespace, is_shared in ((1, False), (far, False), (0, False), (1, True), (far, True), (0, True)):
        (answer,) = _run(loop, replace(_request("r", prompt), namespace=namespace))
        assert (_cached(answer) > 0) is is_shared
    other = _prompts(2)[1]
    answers = _run(loop, *(replace(_request(f"{i}", other), namespace=i) for i in (1, far)))
    assert [_cached(answer) for answer in answers] == [0, 0]
    assert tokens_of(answers[0]) == tokens_of(answers[1])


def test_a_chats_next_turn_continues_where_it_was(model: LoadedModel) -> None:
    (prompt,) = _prompts(1)
    loop = Loop(model)
    (first,) = _run(loop, _request("first", prompt))
    turn = (*prompt, *tokens_of(first), 7, 8, 9, 10)
    (second,) = _run(loop, _request("second", turn))
    assert _cached(second) == len(prompt) + 11  # the last token of an answer is never computed
    empty(loop)
    assert_same(model, turn, _alone(model, turn), tokens_of(second))


def test_choices_of_one_prompt_share_its_cells(loop: Loop) -> None:
    """They come at once: one computes the prompt, and the others wait for it."""
    (prompt,) = _prompts(1)
    requests = [_request(f"r{i}", prompt, 4) for i in range(4)]
    for request in requests:
        assert loop.submit(request) is None
    news: Events = {request.id: [] for request in requests}
    most_cells = 0
    while not loop.is_idle:
        for event in full_step(loop):
            news[event.id].append(event)
        most_cells = max(most_cells, loop.stats().n_cells_used)
    assert sorted(_cached(answer) for answer in news.values()) == [0, *[len(prompt) - 1] * 3]
    assert len({tuple(tokens_of(answer)) for answer in news.values()}) <= 2  # rounding of the last row
    assert most_cells <= len(prompt) + 4 * 5
    assert loop.stats().n_prompt_tokens == len(prompt) + 3


def test_an_evicted_prefix_is_restored_from_the_host(model: LoadedModel) -> None:
    """Each conversation fills half of the cells; the first continues with its restored state."""
    prompts = [_prompts(i + 1, 950)[0] for i in range(4)]
    loop = Loop(model)
    answers = [_run(loop, _request(f"r{i}", prompt))[0] for i, prompt in enumerate(prompts)]
    assert loop.stats().n_offloaded >= 2
    assert loop.stats().host_bytes > 0
    turn = (*prompts[0], *tokens_of(answers[0]), 7, 8, 9)
    (again,) = _run(loop, _request("again", turn))
    assert _cached(again) == len(prompts[0]) + 11
    empty(loop)
    assert_same(model, turn, _alone(model, turn), tokens_of(again))


def test_a_request_to_an_idle_engine_gets_the_first_cells(loop: Loop) -> None:
    """Idle cells before them would be walked over in every step; their states come back from the host."""
    loop._cache.max_idle_cells = 1000
    (idle,), other = _prompts(1), _prompts(2)[1]
    _run(loop, _request("first", idle))
    assert loop.stats().n_cells_idle > N_SHARED
    assert loop.submit(_request("other", other)) is None
    full_step(loop)
    figures = loop.stats()
    if loop._cache.n_parked:
        assert figures.n_cells_idle == 0
        assert figures.n_offloaded == 1
    else:  # the state of a model that cannot rewind stays in its slot
        assert figures.n_offloaded == 0
    loop.cancel("other")
    _run(loop, _request("again", idle))
    assert loop.stats().n_prefix_hits == 1


@pytest.fixture
def undrafted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token a step: no drafts, with which a random model's loops would be over too soon."""
    monkeypatch.setattr(Generation, "draft", lambda *_: [])


@pytest.mark.usefixtures("undrafted")
def test_preempted_sequences_wait_on_the_host(model: LoadedModel) -> None:
    """Twice as many tokens as cells: the youngest are preempted and restored; nothing is computed twice."""
    prompts = [_prompts(i + 1, 420)[0] for i in range(8)]
    alone = [_alone(model, prompt, 100) for prompt in prompts]
    loop = Loop(model)
    answers = _run(loop, *(_request(f"r{i}", prompt, 100) for i, prompt in enumerate(prompts)))
    figures = loop.stats()
    assert figures.n_preemptions > 0
    assert figures.n_prompt_tokens == sum(map(len, prompts))
    assert [len(tokens_of(answer)) for answer in answers] == [100] * 8
    empty(loop)
    for prompt, expected, answer in zip(prompts, alone, answers, strict=True):
        assert_same(model, prompt, expected, tokens_of(answer))


@pytest.mark.usefixtures("undrafted")
def test_a_cancelled_request_frees_its_slot_within_a_step(loop: Loop) -> None:
    """A hundred times in a row, at every stage: while it waits, in its prompt, and while it decodes."""
    prompts = _prompts(4)
    assert loop.submit(_request("stays", prompts[0], 350)) is None
    news: Answer = []
    for i in range(100):
        name = f"r{i}"
        assert loop.submit(_request(name, prompts[1 + i % 3], None)) is None
        for _ in range(i % 4):
            news += [event for event in full_step(loop) if event.id == "stays"]
        loop.cancel(name)
        assert loop.stats().n_running + loop.stats().n_waiting == 1
    while not loop.is_idle:
        news += [event for event in full_step(loop) if event.id == "stays"]
    assert len(tokens_of(news)) == 350
    assert news[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.usefixtures("undrafted")
def test_without_room_on_the_host_all_is_computed_again(model: LoadedModel) -> None:
    """Preempted sequences too. A model that cannot rewind then shares nothing, and no request waits."""
    prompts = [_prompts(i + 1, 420)[0] for i in range(6)]
    alone = [_alone(model, prompt, 100) for prompt in prompts]
    loop = Loop(model)
    loop._cache.store.ram_bytes = 0
    answers = _run(loop, *(_request(f"r{i}", prompt, 100) for i, prompt in enumerate(prompts)))
    figures = loop.stats()
    assert figures.n_preemptions > 0
    assert figures.n_offloaded == 0
    assert figures.n_prompt_tokens > sum(map(len, prompts))
    empty(loop)
    for prompt, expected, answer in zip(prompts, alone, answers, strict=True):
        assert_same(model, prompt, expected, tokens_of(answer))
