"""llama.cpp's named chat templates, written as Jinja, against llama_chat_apply_template itself."""

import ctypes
from typing import Any

import pytest

from vram_llm.chat.builtin.table import BUILTIN_TEMPLATES
from vram_llm.chat.template import ChatTemplate, check_template
from vram_llm.llama.bindings import C

Messages = list[dict[str, str]]


def _chat(*messages: tuple[str, str]) -> Messages:
    return [{"role": role, "content": content} for role, content in messages]


CHATS = [
    _chat(("user", "Hello")),
    _chat(("system", "You are brief."), ("user", "Hello")),
    _chat(("user", "Hello"), ("assistant", " Hi there \n"), ("user", "\tWho are you? \n")),
    _chat(
        ("system", "  Be kind. "), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"),
        ("user", "e"), ("assistant", "f"),
    ),
    _chat(("user", "a"), ("system", "Now in French."), ("user", "Größe 漢字 \"quoted\" {{ x }} \\ 'y'")),
    _chat(("system", "one"), ("system", "two"), ("user", "a\u00a0"), ("assistant", "")),
    _chat(("user", "a"), ("assistant", "b"), ("tool", " 42 "), ("assistant", "c")),
    _chat(("assistant", "I begin."), ("user", "a")),
]  # fmt: skip


def _by_llama_cpp(name: str, messages: Messages, *, answer: bool) -> str:
    texts = [(message["role"].encode(), message["content"].encode()) for message in messages]
    chat = (C.llama_chat_message * len(texts))(*(C.llama_chat_message(*text) for text in texts))
    buffer = ctypes.create_string_buffer(4096)
    n = C.llama_chat_apply_template(name.encode(), chat, len(texts), answer, buffer, len(buffer))
    assert 0 <= n < len(buffer)
    return buffer.raw[:n].decode()


def _names_of_llama_cpp() -> set[str]:
    n = C.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * n)()
    C.llama_chat_builtin_templates(names, n)
    return {name.decode() for name in names if name is not None}


def test_all_names_are_there() -> None:
    assert set(BUILTIN_TEMPLATES) == _names_of_llama_cpp()


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("name", BUILTIN_TEMPLATES)
def test_they_write_what_llama_cpp_writes(name: str, answer: bool) -> None:
    template = ChatTemplate(BUILTIN_TEMPLATES[name], "", "")
    for messages in CHATS:
        copied: list[dict[str, Any]] = [dict(message) for message in messages]
        written = template.render(copied, add_generation_prompt=answer)
        assert written == _by_llama_cpp(name, messages, answer=answer), messages


@pytest.mark.parametrize("name", BUILTIN_TEMPLATES)
def test_they_are_chat_templates(name: str) -> None:
    check_template(BUILTIN_TEMPLATES[name], name)
