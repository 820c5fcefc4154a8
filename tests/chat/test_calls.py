"""Calls of earlier turns, in the shapes that templates show."""

import json
from dataclasses import replace
from typing import Any

import pytest

from vram_llm.chat.calls import calls_as_text, calls_for_template, one_call_per_message
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.template import ChatTemplate
from vram_llm.chat.template_caps import TemplateCaps

ALL: TemplateCaps = ChatTemplate(
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}",
    "",
    "",
).caps
USER = {"role": "user", "content": "Which?"}
ANSWER = {"role": "assistant", "content": "Both."}


def call(number: int, arguments: Any = None) -> dict[str, Any]:
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {
            "name": "look",
            "arguments": arguments if arguments is not None else f'{{"n": {number}}}',
        },
    }


def calls(content: str, *numbers: int) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": [call(number) for number in numbers]}


def result(number: int) -> dict[str, Any]:
    return {"role": "tool", "content": f"Result {number}", "tool_call_id": f"call_{number}"}


def outline(messages: list[dict[str, Any]]) -> list[str]:
    """Each message as its content and the numbers of its calls."""
    return [
        " ".join([m["content"] or str(m["content"]), *(c["id"] for c in m.get("tool_calls", ()))]).strip()
        for m in messages
    ]


def test_everything_if_the_template_shows_everything() -> None:
    chat = [USER, calls("Let me see.", 1, 2), result(1), result(2), ANSWER]
    shown = calls_for_template(chat, ALL)
    assert outline(shown) == outline(chat)
    assert [c["function"]["arguments"] for c in shown[1]["tool_calls"]] == [{"n": 1}, {"n": 2}]
    assert json.loads(chat[1]["tool_calls"][0]["function"]["arguments"]) == {"n": 1}


def test_one_call_a_message_each_before_its_result() -> None:
    chat = [
        USER,
        calls("Let me see.", 1, 2),
        result(2),
        result(1),
        result(3),
        ANSWER,
        calls("", 4),
        result(4),
    ]
    assert outline(list(one_call_per_message(chat))) == [
        "Which?", "Let me see. call_1", "Result 1", "call_2", "Result 2", "Result 3", "Both.", "call_4",
        "Result 4",
    ]  # fmt: skip


def test_content_is_a_message_before_the_calls() -> None:
    caps = replace(ALL, content_with_calls=False)
    assert outline(calls_for_template([USER, calls("Let me see.", 1), result(1)], caps)) == [
        "Which?",
        "Let me see.",
        "call_1",
        "Result 1",
    ]


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (
            [calls("A", 1), result(1), calls("B", 2), result(2)],
            ["A\n\nB", "call_1", "Result 1", "call_2", "Result 2"],
        ),
        ([calls("A", 1), result(1), ANSWER], ["call_1", "Result 1", "A\n\nBoth."]),
        ([ANSWER, calls("", 1), result(1)], ["Both.", "call_1", "Result 1"]),
        ([calls("", 1), result(1)], ["call_1", "Result 1"]),
        ([ANSWER], ["Both."]),
    ],
)
def test_texts_are_one_message_a_turn_if_the_template_refuses_two(
    run: list[dict[str, Any]], expected: list[str]
) -> None:
    caps = replace(ALL, content_with_calls=False, content_before_calls=False)
    assert outline(calls_for_template([USER, *run, USER], caps)) == ["Which?", *expected, "Which?"]


def test_content_is_null_if_calls_are_shown_only_then() -> None:
    caps = replace(ALL, requires_null_content=True, requires_text_arguments=True)
    (shown,) = calls_for_template([calls("", 1)], caps)
    assert shown["content"] is None
    assert shown["tool_calls"][0]["function"]["arguments"] == '{"n": 1}'


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (None, '<tool_call>\n{"name": "look", "arguments": {"n": 1}}\n</tool_call>'),
        ("{{ tools }}[TOOL_CALLS]", '[TOOL_CALLS][{"name": "look", "arguments": {"n": 1}}]'),
    ],
)
def test_calls_as_the_model_writes_them(source: str | None, text: str) -> None:
    (shown,) = calls_as_text([calls("Let me see.", 1)], dialect_of(source))
    assert shown == {"role": "assistant", "content": f"Let me see.\n{text}"}


def test_empty_arguments_are_an_empty_object() -> None:
    chat = [{"role": "assistant", "content": "", "tool_calls": [call(1, "")]}]
    assert '"arguments": {}}' in calls_as_text(chat, dialect_of(None))[0]["content"]
    assert calls_for_template(chat, ALL)[0]["tool_calls"][0]["function"]["arguments"] == {}


def test_arguments_with_half_of_a_surrogate_pair_are_shown_as_they_came() -> None:
    text = r'{"a": "\ud800"}'
    shown = calls_for_template([{"role": "assistant", "content": "", "tool_calls": [call(0, text)]}], ALL)
    assert shown[0]["tool_calls"][0]["function"]["arguments"] == {"arguments": text}
