"""System messages reach the prompt in their order, with any template."""

from typing import Any

import pytest

from tests.chat.kinds import KINDS
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.prompt import chat_prompt
from vram_llm.chat.template import ChatTemplate
from vram_llm.errors import RequestError


def chat(words: str) -> list[dict[str, Any]]:
    """ "system:a user:b" as messages."""
    pairs = (word.partition(":") for word in words.split())
    return [{"role": role, "content": text} for role, _, text in pairs]


def prompt(source: str | None, words: str) -> str:
    return chat_prompt(chat(words), [], ChatTemplate(source, "", ""), dialect_of(source), {}).text


CHATS = (
    "system:ORDER-1 user:QUESTION-1",
    "system:ORDER-1 system:ORDER-2 user:QUESTION-1",
    "developer:ORDER-1 user:QUESTION-1",
    "system:ORDER-1 developer:ORDER-2 user:QUESTION-1",
    "user:QUESTION-1 assistant:ANSWER-1 system:ORDER-1 user:QUESTION-2",
    "system:ORDER-1 user:QUESTION-1 assistant:ANSWER-1 system:ORDER-2 user:QUESTION-2",
    "system:ORDER-1 user:QUESTION-1 assistant:ANSWER-1 user:QUESTION-2 developer:ORDER-2",
    "system:ORDER-1 user:QUESTION-1 user:QUESTION-2",
    "user:QUESTION-1 assistant:ANSWER-1 assistant:ANSWER-2 user:QUESTION-2",
    "assistant:ANSWER-1 user:QUESTION-1",
    "system:a user:s",  # texts that templates hold as well
)


@pytest.mark.parametrize("words", CHATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_is_in_the_prompt(kind: str, words: str) -> None:
    text = prompt(KINDS[kind], words)
    for role in (("system", "developer"), ("user",), ("assistant",)):
        places = [text.find(m["content"]) for m in chat(words) if m["role"] in role]
        assert -1 not in places
        assert places == sorted(places)


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        ("first only", "system:a system:b user:c", "<system>a\n\nb<user>c<assistant>"),
        ("strict first", "system:a user:b developer:c", "<system>a<user>b<user>c<assistant>"),
        ("mentions developer", "developer:a user:b", "<system>a<user>b<assistant>"),
        ("knows developer", "developer:a user:b", "<orders>a<user>b<assistant>"),
        ("no system", "system:a user:b", "<user>a\n\nb<assistant>"),
        (
            "no system",
            "user:a assistant:b system:c user:d",
            "<user>a<assistant>b<user>c\n\nd<assistant>",
        ),
        ("no system", "assistant:a user:b", "<user><assistant>a<user>b<assistant>"),
        ("drops system", "system:a system:b user:c", "<user>a\n\nb<user>c<assistant>"),
        ("all", "system:a user:b system:c", "<system>a<user>b<system>c<assistant>"),
    ],
)
def test_the_place_of_system_messages(kind: str, words: str, expected: str) -> None:
    assert prompt(KINDS[kind], words) == expected


ONLY_WITH_A_LAST_USER = (  # as Mistral Nemo: the system message stands in a last message of a user's
    "{% for m in messages if m.role != 'system' %}"
    "{% if loop.last and m.role == 'user' and messages[0].role == 'system' %}{{ messages[0].content }}"
    "{% endif %}{{ '<' ~ m.role ~ '>' ~ m.content }}{% endfor %}"
)


def test_a_lost_system_message_becomes_a_user_message() -> None:
    assert prompt(ONLY_WITH_A_LAST_USER, "system:a user:b") == "a<user>b"
    assert prompt(ONLY_WITH_A_LAST_USER, "system:a user:b assistant:c") == "<user>a<user>b<assistant>c"


@pytest.mark.parametrize(
    ("source", "words", "place"),
    [
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "user:a assistant:b user:c",
            1,
        ),
        ("{{ messages[0].content }}", "user:a assistant:b", 1),
        ("{{ messages[-1].content }}", "user:a assistant:x user:a", 0),
        ("[user]{{ messages[-1].content }}", "user:user assistant:x user:a", 0),
        ("{% for m in messages %}{{ (m.content | string)[:3] }}{% endfor %}", "user:abcdefg", 0),
    ],
)
def test_a_message_that_is_not_shown_is_an_error(source: str, words: str, place: int) -> None:
    with pytest.raises(
        RequestError, match=rf"leaves out message {place + 1} of this chat, of role '\w+' \('\w+'\);"
    ):
        prompt(source, words)


def test_the_templates_refusal_is_reported() -> None:
    source = "{% if messages[1] %}{{ raise_exception('one message') }}{% endif %}{{ messages[0].content }}"
    with pytest.raises(RequestError, match="refuses these messages: one message"):
        prompt(source, "user:a assistant:b user:c")


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content | trim }}{% endfor %}",
        "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
        "{% for m in messages %}{{ m.content | e }}{% endfor %}",
        "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}",
        "{% for m in messages %}{{ m.content | replace('\\n', ' ') }}{% endfor %}",
    ],
)
def test_a_text_may_be_trimmed_and_escaped_and_lose_its_thinking(source: str) -> None:
    messages = [
        {"role": "user", "content": ' "Who"\n is <there>? '},
        {"role": "assistant", "content": "<think>Who, indeed?</think> Me.", "reasoning_content": "Hm."},
        {"role": "user", "content": "Ah."},
    ]
    template = ChatTemplate(source, "", "")
    assert "Ah." in chat_prompt(messages, [], template, dialect_of(source), {}).text
