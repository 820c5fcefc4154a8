"""What the built-in model is trained on: read, varied, and written as the server would write it."""

import random
from pathlib import Path
from typing import Any

import pytest

from tools.demo_model.calls import FUNCTIONS, offer, use
from tools.demo_model.conversations import NO_THOUGHTS, Draw, conversation, vary_gently
from tools.demo_model.corpus import TEMPLATE, entries
from tools.demo_model.wording import vary
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.template import ChatTemplate

SOURCE = TEMPLATE.read_text()


def test_a_file_of_questions(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "# memory\n\nWhat?\nwhat now\n~ say what\n= This.\n\nWhy?\n~ how come\n= So.\n"
    )
    what, why = entries(tmp_path)
    assert (what.topic, what.questions, what.kept_out, what.answer) == (
        "memory", ("What?", "what now"), ("say what",), "This.",
    )  # fmt: skip
    assert (why.topic, why.answer) == ("memory", "So.")


@pytest.mark.parametrize("block", ["What?", "= An answer", "What?\n= One.\n= Two."])
def test_a_block_that_is_none_is_named(tmp_path: Path, block: str) -> None:
    (tmp_path / "a.txt").write_text(block)
    with pytest.raises(ValueError, match=r"a.txt: no question, or not one answer"):
        entries(tmp_path)


def test_questions_are_varied_and_never_lost() -> None:
    rng = random.Random(1)
    said = {vary("How do I save a plan?", rng) for _ in range(200)}
    assert len(said) > 100
    assert all(len(one) > 8 for one in said)
    assert "Paris" in vary_gently("weather in Paris?", rng)


def test_chats_read_as_the_server_writes_them() -> None:
    rng = random.Random(2)
    offered = offer(FUNCTIONS[0], rng)
    one = use(offered, rng)
    chat: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": one.request},
        {"role": "assistant", "content": "", "tool_calls": [one.call]},
        {"role": "tool", "content": one.result},
        {"role": "assistant", "content": one.answer},
    ]
    template = ChatTemplate(SOURCE, "", "")
    for tools in (None, [offered.tool]):
        found = conversation(chat, tools)
        assert found.text + "\n" == template.render(chat, tools=tools, add_generation_prompt=False)
        assert [text for text, is_answer in found.pieces if is_answer][-1] == f"{one.answer}<|im_end|>"
    thought = conversation(chat, thought="Hm.").pieces[-2:]
    assert thought[0][0].endswith("<|im_start|>assistant\n<think>\n")
    assert thought[1][0] == f"Hm.\n</think>\n\n{one.answer}<|im_end|>"


def test_an_answer_begun_by_the_server_was_trained_too() -> None:
    assert dialect_of(SOURCE).begin_answer("") == NO_THOUGHTS


def test_thoughts_of_earlier_answers_are_not_shown() -> None:
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nb\n</think>\n\nc"},
        {"role": "user", "content": "d"},
    ]
    assert "<|im_start|>assistant\nc<|im_end|>" in ChatTemplate(SOURCE, "", "").render(chat)


def test_every_question_comes_before_any_comes_again() -> None:
    some = entries()[:30]
    draw, seen = Draw(some, 1, with_tools=0.0), ""
    for _ in range(sum(len(entry.questions) for entry in some)):
        seen += draw.one().text
    assert all(entry.answer in seen for entry in some)
