"""Prefix reuse with a KV cache for each slot (--no-kv-unified): a request continues in an idle slot."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, empty, loaded, make_request, run, tokens_of, write_f32
from tests.engine.rounding import assert_same
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import TokenEvent
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import Serving
from vram_llm.units import MIB

Answer = list[TokenEvent]


FLASH_ATTENTION = "llama, flash attention"


@pytest.fixture(scope="module", params=["llama", FLASH_ATTENTION, "nemotron_h", "gemma3"])
def model(
    request: pytest.FixtureRequest, plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoadedModel]:
    """Two slots of 1,024 cells each: full attention, exact and as llama.cpp computes it by default; recurrent
    layers; a sliding window. Weights are F32.
    """
    path = write_f32(tmp_path_factory.mktemp("own") / "f32.gguf", request.param.partition(",")[0])
    plan = plan_on_cpu(
        path, n_ctx=2048, parallel=2, kv_unified=False, n_batch=128, n_ubatch=64,
        serving=Serving(slots_ram_bytes=64 * MIB), **({} if request.param == FLASH_ATTENTION else EXACT),
    )  # fmt: skip
    with loaded(plan) as model:
        yield model


def _words(seed: int, n: int) -> tuple[int, ...]:
    return tuple(map(int, np.random.default_rng(seed).integers(3, 320, n)))


def _run(loop: Loop, *prompts: tuple[int, ...]) -> list[Answer]:
    """The answers of eight tokens each, to all prompts at once."""
    requests = (make_request(f"r{i}", prompt, max_tokens=8) for i, prompt in enumerate(prompts))
    return list(run(loop, *requests).values())


def _cached(answer: Answer) -> int:
    return answer[-1].cached_tokens


def _alone(model: LoadedModel, prompt: tuple[int, ...]) -> list[int]:
    """The answer of an engine that has seen nothing else."""
    loop = Loop(model)
    (answer,) = _run(loop, prompt)
    empty(loop)
    return tokens_of(answer)


def test_a_chats_next_turn_continues_in_its_slot(model: LoadedModel) -> None:
    """Also after another chat, in the second slot."""
    one, other = _words(1, 400), _words(2, 300)
    loop = Loop(model)
    (first,) = _run(loop, one)
    (between,) = _run(loop, other)
    turn = (*one, *tokens_of(first), *_words(3, 9))
    (second,) = _run(loop, turn)
    empty(loop)
    assert [_cached(first), _cached(between), _cached(second)] == [0, 0, len(one) + 7]
    assert_same(model, turn, _alone(model, turn), tokens_of(second))


def test_a_prompt_that_ends_differently_shares_its_beginning(model: LoadedModel) -> None:
    """Models that cannot rewind begin at the last state that was saved."""
    shared = _words(4, 400)
    prompts = [(*shared, *_words(seed, 20)) for seed in (5, 6, 7)]
    loop = Loop(model)
    answers = [_run(loop, prompt)[0] for prompt in prompts]
    empty(loop)
    assert _cached(answers[0]) == 0
    if not model.cells.is_stateful:
        assert [_cached(answer) for answer in answers[1:]] == [400, 400]
    assert all(_cached(answer) <= 400 for answer in answers)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same(model, prompt, _alone(model, prompt), tokens_of(answer))


def test_the_cells_of_a_running_request_are_not_shared(model: LoadedModel) -> None:
    """Two of the same prompt at once: each computes it in cells of its own."""
    prompt = _words(8, 200)
    loop = Loop(model)
    answers = _run(loop, prompt, prompt)
    empty(loop)
    assert [_cached(answer) for answer in answers] == [0, 0]
    for answer in answers:
        assert_same(model, prompt, _alone(model, prompt), tokens_of(answer))


def test_a_long_chat_is_not_lost_for_a_short_beginning(model: LoadedModel) -> None:
    """A request that shares little gets the free slot; the chat continues after it."""
    chat = _words(9, 500)
    loop = Loop(model)
    (first,) = _run(loop, chat)
    (other,) = _run(loop, (*chat[:40], *_words(10, 100)))
    turn = (*chat, *tokens_of(first), *_words(11, 9))
    (second,) = _run(loop, turn)
    empty(loop)
    assert [_cached(other), _cached(second)] == [0, len(chat) + 7]
    assert_same(model, turn, _alone(model, turn), tokens_of(second))


def test_a_state_that_a_slot_loses_is_restored_from_the_host(model: LoadedModel) -> None:
    """Three chats with a common beginning take turns over two slots."""
    chats = [_words(seed, 400) for seed in (12, 13, 14)]
    loop = Loop(model)
    for chat in chats:
        _run(loop, chat)
    answers = [_run(loop, (*chat, 7, 8, 9))[0] for chat in chats]
    empty(loop)
    for chat, answer in zip(chats, answers, strict=True):
        if not model.cells.is_stateful:
            assert _cached(answer) >= len(chat)
        assert_same(model, (*chat, 7, 8, 9), _alone(model, (*chat, 7, 8, 9)), tokens_of(answer))
