"""What the built-in model says, through llama.cpp: what it was trained on, and questions kept out."""

import json
import random
import re
from typing import Any

import pytest

from tests.demo.conftest import Answers, Chat
from tools.demo_model.calls import FUNCTIONS, Function, offer, use
from tools.demo_model.conversations import SYSTEM, thought_of
from tools.demo_model.corpus import Entry, entries

pytestmark = pytest.mark.process  # computes for many seconds

ENTRIES = entries()


def asked(question: str) -> Chat:
    return [{"role": "user", "content": question}]


def share_right(answers: Answers, questions: list[tuple[str, Entry]]) -> float:
    said = answers([asked(question) for question, _ in questions])
    wrong = [
        f"{question}\n  {answer}" for (question, entry), answer in zip(questions, said, strict=True)
        if answer != entry.answer
    ]  # fmt: skip
    print("\n".join(wrong))  # shown where the test fails
    return 1 - len(wrong) / len(questions)


def test_there_are_hundreds_of_questions_each_with_others_and_one_kept_out() -> None:
    assert len(ENTRIES) >= 250
    assert all(len(entry.questions) >= 3 and entry.kept_out for entry in ENTRIES)
    everything = [
        re.sub(r"\W", "", q).lower() for entry in ENTRIES for q in (*entry.questions, *entry.kept_out)
    ]
    assert len(set(everything)) == len(everything)


def test_what_it_was_trained_on_is_answered_word_for_word(answers: Answers) -> None:
    assert share_right(answers, [(q, entry) for entry in ENTRIES for q in entry.questions]) >= 0.95


def test_other_words_for_the_same_get_the_right_answer(answers: Answers) -> None:
    assert share_right(answers, [(q, entry) for entry in ENTRIES for q in entry.kept_out]) >= 0.5


def test_a_system_message_does_not_confuse_it(answers: Answers) -> None:
    chats = [[{"role": "system", "content": SYSTEM[0]}, *asked(entry.questions[0])] for entry in ENTRIES]
    right = sum(said == entry.answer for said, entry in zip(answers(chats), ENTRIES, strict=True))
    assert right >= 0.9 * len(ENTRIES)


def test_the_last_question_of_a_conversation_is_answered(answers: Answers) -> None:
    rng = random.Random(3)
    picked = [rng.sample(ENTRIES, 4) for _ in range(64)]
    chats = []
    for turns in picked:
        chat = [
            message for entry in turns
            for message in (*asked(entry.questions[0]), {"role": "assistant", "content": entry.answer})
        ]  # fmt: skip
        chats.append(chat[:-1])
    right = sum(said == turns[-1].answer for said, turns in zip(answers(chats), picked, strict=True))
    assert right >= 0.9 * len(picked)


def test_it_thinks_first_where_it_is_told_to(answers: Answers) -> None:
    said = answers([asked(entry.questions[0]) for entry in ENTRIES], thinking=True)
    parts = [one.partition("\n</think>\n\n") for one in said]
    right = sum(told == entry.answer for (_, _, told), entry in zip(parts, ENTRIES, strict=True))
    about = sum(thought == thought_of(entry) for (thought, _, _), entry in zip(parts, ENTRIES, strict=True))
    assert right >= 0.9 * len(ENTRIES)
    assert about >= 0.7 * len(ENTRIES)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.names[0])
def test_functions_are_called_and_their_results_told(answers: Answers, function: Function) -> None:
    rng = random.Random(11)
    offers = [offer(function, rng) for _ in range(16)]
    uses = [use(one, rng) for one in offers]
    tools = [[one.tool] for one in offers]
    chats = [asked(one.request) for one in uses]
    called = answers(chats, tools)
    told = answers(
        [
            [
                *chat,
                {"role": "assistant", "content": "", "tool_calls": [one.call]},
                {"role": "tool", "content": one.result},
            ]
            for chat, one in zip(chats, uses, strict=True)
        ],
        tools,
    )
    assert sum(said == call_text(one.call) for said, one in zip(called, uses, strict=True)) >= 12
    assert sum(said == one.answer for said, one in zip(told, uses, strict=True)) >= 8


def call_text(call: dict[str, Any]) -> str:
    name, arguments = call["function"]["name"], json.dumps(call["function"]["arguments"])
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
