"""Which beginnings of prompts an engine is thought to hold."""

from typing import Any

import pytest

from vram_llm.engine.request import Image, Request
from vram_llm.fleet.prefix_index import PrefixIndex, PrefixKey, prefix_keys

SYSTEM = "You are a careful assistant. " * 40


def keys(prompt: str | tuple[int, ...], **options: Any) -> tuple[PrefixKey, ...]:
    return prefix_keys(Request(id="r", prompt=prompt, **options))


def held(prompt: str | tuple[int, ...], *sent: str | tuple[int, ...], **options: Any) -> int:
    index = PrefixIndex()
    for other in sent:
        index.note(keys(other))
    return index.find(keys(prompt, **options)).length


def test_a_common_beginning_is_found_to_a_sixteenth() -> None:
    assert held(SYSTEM + "What is a quant?", SYSTEM + "Why is the sky blue?" * 9) >= 15 / 16 * len(SYSTEM)
    tokens = tuple(range(3000))
    assert held((*tokens, 7, 8, 9), (*tokens, *range(100))) >= 15 / 16 * 3000
    assert held("Another beginning. " + SYSTEM, SYSTEM) == 0
    assert held(SYSTEM) == 0


@pytest.mark.parametrize("options", [{"namespace": 1}, {"adapters": (0,)}, {"suffix": "x"}])
def test_what_separates_prompts(options: dict[str, Any]) -> None:
    assert held(SYSTEM, SYSTEM) > 0
    assert held(SYSTEM, SYSTEM, **options) == 0


def test_an_image_is_a_part_of_the_prompt() -> None:
    cat, dog = (Image(500, data, "messages") for data in (b"cat" * 99, b"dog" * 99))
    index = PrefixIndex()
    index.note(keys(SYSTEM, images=(cat,)))
    assert index.find(keys(SYSTEM, images=(cat,))).length > 1000
    assert 400 < index.find(keys(SYSTEM, images=(dog,))).length <= 500


def test_the_next_turn_finds_the_answer_too() -> None:
    request, answer = Request(id="r", prompt=SYSTEM), "The sky scatters blue light. " * 30
    index = PrefixIndex()
    index.note(prefix_keys(request, answer))
    following = SYSTEM + answer + "\nAnd at night?"
    assert index.find(keys(following)).length >= 15 / 16 * len(SYSTEM + answer)
    tokens = Request(id="t", prompt=tuple(range(100)))
    index.note(prefix_keys(tokens, tokens=range(100, 400)))
    assert index.find(keys(tuple(range(500)))).length >= 15 / 16 * 400


def test_long_prompts_have_few_keys() -> None:
    assert len(keys("x" * 4_000_000)) < 200
    assert keys("x" * 63) == ()


def test_memory_is_bounded_and_the_oldest_prompts_go_first() -> None:
    index = PrefixIndex(most=40)
    prompts = [f"{i} {SYSTEM}" for i in range(20)]
    for prompt in prompts:
        index.note(keys(prompt))
        assert len(index) <= 40
    assert index.find(keys(prompts[-1])).length > 1000
    assert index.find(keys(prompts[0])).length == 0


def test_a_prompt_that_the_engine_had_dropped_takes_older_ones_with_it() -> None:
    index = PrefixIndex()
    old, missed, recent = (f"{name} {SYSTEM}" for name in ("old", "missed", "recent"))
    for prompt in (old, missed, recent):
        index.note(keys(prompt))
    index.drop_old(index.find(keys(missed)).used)
    assert [index.find(keys(prompt)).length > 0 for prompt in (old, missed, recent)] == [False, False, True]
    index.clear()
    assert len(index) == 0
