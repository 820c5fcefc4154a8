"""Chats of every shape with each of llama.cpp's chat templates: all text is in the prompt, always."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.chat.templates import NAMES, source_of
from vram_llm.chat.dialect import Dialect, dialect_of
from vram_llm.chat.prompt import ChatPrompt, chat_prompt
from vram_llm.chat.template import ChatTemplate
from vram_llm.errors import RequestError

PLACE = {"type": "string", "description": "Where to look."}
SCHEMA = {"type": "object", "properties": {"place": PLACE}, "required": ["place"]}
LOOK = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}}

CHATS = {  # s, d, u, a: a system, developer, user's, assistant's message; c: with a call, w: with words too,
    # p: with two calls, h: with thinking; b: an empty one of the assistant's; t: a result
    "one order": "su",
    "two orders": "ssu",
    "three orders": "sssu",
    "a developer's": "du",
    "both": "sdu",
    "both, the developer's first": "dsu",
    "a late order": "uasu",
    "a second order later": "suasu",
    "a developer's later": "suadu",
    "an order between users": "usu",
    "an order at the end": "sus",
    "an order after the answer": "suas",
    "an order at every place": "dsusasdus",
    "orders alone": "s",
    "two users": "uu",
    "two answers": "uaau",
    "an answer first": "au",
    "an answer last": "sua",
    "thinking": "suhuhu",
    "a call": "suct",
    "a call and its answer": "suctau",
    "words before a call": "suwt",
    "words before a call, answered": "suwtau",
    "two calls": "suptt",
    "two calls, answered": "supttau",
    "rounds of calls": "suwtptt",
    "rounds of calls, twice": "suwtcta" * 2 + "u",
    "a user after a result": "suctu",
    "an order after a result": "suctsu",
    "an order amid calls": "uctsctau",
    "a result without a call": "sutu",
    "an empty answer": "subu",
    "an empty answer at the end": "ub",
    "results without a call at the end": "sutt",
    "a developer's amid calls": "dsuwtdcta",
}


@cache
def template_of(name: str) -> tuple[ChatTemplate, Dialect]:
    source = source_of(name)
    return ChatTemplate(source, "<s>", "</s>"), dialect_of(source)


def chat_of(letters: str) -> list[dict[str, Any]]:
    """Messages by the letters of CHATS; their texts are all different."""
    roles = {"s": "system", "d": "developer", "u": "user", "t": "tool"}
    words = {
        "s": "Rule",
        "d": "Rule",
        "u": "Question",
        "t": "Result",
        "a": "Answer",
        "h": "Answer",
        "w": "Remark",
    }
    calls = answers = 0
    messages: list[dict[str, Any]] = []
    for i, letter in enumerate(letters):
        content = f"{words[letter]} of place {i}." if letter in words else ""
        message: dict[str, Any] = {"role": roles.get(letter, "assistant"), "content": content}
        if letter == "h":
            message["reasoning_content"] = f"Thought of place {i}."
        if letter in "cwp":
            n_calls = 2 if letter == "p" else 1
            message["tool_calls"] = [call(calls + n) for n in range(n_calls)]
            calls += n_calls
        if letter == "t":
            message["tool_call_id"] = f"call_{answers}"
            answers += 1
        messages.append(message)
    return messages


def call(number: int) -> dict[str, Any]:
    arguments = json.dumps({"place": f"Cellar {number}x"})
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "look", "arguments": arguments},
    }


def render(name: str, messages: list[dict[str, Any]], *, tools: bool = False, **options: Any) -> ChatPrompt:
    template, dialect = template_of(name)
    offered = [LOOK] if tools else []
    return chat_prompt(messages, offered, template, dialect, {"enable_thinking": True}, **options)


def texts(messages: list[dict[str, Any]], *, tools: bool) -> Iterator[str]:
    """Every text that the model must see."""
    for message in messages:
        yield message["content"]
        for made in message.get("tool_calls", ()):
            yield made["function"]["name"]
            yield json.loads(made["function"]["arguments"])["place"]
    if tools:
        yield from ("look", "Looks.", "Where to look.")


@pytest.mark.process  # computes for many seconds
@pytest.mark.parametrize("name", NAMES)
def test_every_text_is_in_the_prompt(name: str) -> None:
    for what, letters in CHATS.items():
        messages = chat_of(letters)
        for tools in (False, True):
            prompt = render(name, messages, tools=tools).text
            lost = [text for text in texts(messages, tools=tools) if text not in prompt]
            assert not lost, (what, tools)


BARE: tuple[dict[str, Any], ...] = (  # schemas that leave out what they may
    {"type": "object", "properties": {}},
    {"type": "object", "properties": {"place": {"type": "string"}}},
    {"type": "object", "properties": {"place": {"enum": ["here", "there"]}}, "required": ["place"]},
    {"type": "object", "properties": {"place": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
    {"type": "object", "properties": {"places": {"type": "array", "items": {"type": "string"}}}},
    {"type": "object", "properties": {"place": {"type": ["string", "null"], "default": None}}},
    {"type": "object", "properties": {"place": {"type": "object", "properties": {"x": {"type": "number"}}}}},
    {"type": "object", "properties": {"place": {"type": "object", "additionalProperties": True}}},
    {"type": "object", "properties": {"place": {"type": "integer", "minimum": 1}}, "$defs": {"a": {}}},
    {"type": "object", "properties": {"place": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "string"}}},
    {"type": "object", "properties": {"place": {}}},
)


@pytest.mark.parametrize("name", NAMES)
def test_tools_with_bare_schemas(name: str) -> None:
    template, dialect = template_of(name)
    for schema in BARE:
        function = {"name": "look", "description": "", "parameters": schema}
        tools = [{"type": "function", "function": function}]
        prompt = chat_prompt(chat_of("u"), tools, template, dialect, {}).text
        assert "look" in prompt, schema


@pytest.mark.parametrize("name", NAMES)
def test_system_messages_keep_their_order(name: str) -> None:
    for letters in ("ssu", "dsu", "suadusu", "usus"):
        messages = chat_of(letters)
        prompt = render(name, messages).text
        places = [prompt.index(m["content"]) for m in messages if m["role"] in ("system", "developer")]
        assert places == sorted(places), letters


@pytest.mark.parametrize("name", NAMES)
def test_a_continued_answer_has_its_thinking_closed(name: str) -> None:
    _, dialect = template_of(name)
    for letters in ("ua", "suaua", "uh"):
        messages = chat_of(letters)
        messages[-1]["content"] += " And "
        prompt = render(name, messages, continues=True)
        before, found, after = prompt.text.rpartition(messages[-1]["content"])
        assert (bool(found), after) == (True, "")
        assert (
            dialect.thinking is None or not dialect.thinking.opening or not dialect.thinking.is_opened(before)
        )
        assert prompt.begin_answer() == prompt.text


@pytest.mark.parametrize("name", NAMES)
def test_thinking_is_continued(name: str) -> None:
    _, dialect = template_of(name)
    messages = [*chat_of("u"), {"role": "assistant", "content": "", "reasoning_content": "First, "}]
    if dialect.thinking is None:
        with pytest.raises(RequestError, match=r"'messages\[1\].reasoning_content' cannot be continued"):
            render(name, messages, continues=True)
        return
    before, _, after = render(name, messages, continues=True).text.rpartition("First, ")
    assert after == ""
    assert dialect.thinking.is_opened(before)


@pytest.mark.parametrize("name", NAMES)
def test_a_turn_that_is_not_opened_ends_with_the_chat(name: str) -> None:
    opened, closed = (
        render(name, chat_of("u")).text,
        render(name, chat_of("u"), add_generation_prompt=False).text,
    )
    assert "Question of place 0." in closed
    assert len(closed) <= len(opened)
