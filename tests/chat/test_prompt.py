"""Prompts that end within an assistant's message."""

from typing import Any

import pytest

from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.prompt import ChatPrompt, chat_prompt
from vram_llm.chat.reader import Parser
from vram_llm.chat.template import ChatTemplate
from vram_llm.errors import RequestError

USER = {"role": "user", "content": "Hi"}
BEGUN = {"role": "assistant", "content": "The answer is "}
CHATML = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and loop.last %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{{- m.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""
USERS_LAST = """{%- if messages[-1].role == 'assistant' %}{{ raise_exception('users come last') }}{% endif %}
{%- for m in messages %}
{{- '[' + m.role + ']' + m.content.split('</think>')[-1] }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]<think>' }}{% endif %}"""
THOUGHTFUL = """{%- for m in messages %}
{{- '[' + m.role + ']' }}
{%- if m.reasoning_content %}{{- '<think>' + m.reasoning_content + '</think>' }}{% endif %}
{{- m.content + '[end]' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[assistant]' }}{% endif %}"""
HARMONY = """{%- for m in messages %}{{- '<|start|>' + m.role }}
{%- if m.role == 'assistant' %}{{- '<|channel|>final' }}{% endif %}
{{- '<|message|>' + m.content + '<|end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{% endif %}"""


def prompt_of(source: str, *messages: dict[str, Any], continues: bool = True, **names: Any) -> ChatPrompt:
    template = ChatTemplate(source, "", "")
    return chat_prompt(list(messages), [], template, dialect_of(source), names, continues=continues)


def answer(parser: Parser | None, text: str) -> list[str]:
    assert parser is not None
    return [
        f"{type(e).__name__}: {e.text}" for e in [*parser.feed(text), *parser.finish()] if hasattr(e, "text")
    ]


@pytest.mark.parametrize(
    ("source", "end"),
    [
        (CHATML, "<|im_start|>assistant\n<think>\n\n</think>\n\nThe answer is "),
        (USERS_LAST, "[user]Hi[assistant]<think>\n</think>\n\nThe answer is "),
        (THOUGHTFUL, "[user]Hi[end][assistant]The answer is "),
        (HARMONY, "<|start|>assistant<|channel|>final<|message|>The answer is "),
    ],
)
def test_the_prompt_ends_with_the_text_of_the_last_message(source: str, end: str) -> None:
    prompt = prompt_of(source, USER, BEGUN)
    assert prompt.text.endswith(end)
    assert prompt.begin_answer() == prompt.text  # an answer of a form goes on too


def test_the_rest_is_the_answer() -> None:
    assert answer(prompt_of(CHATML, USER, BEGUN).parser(None), "42.") == ["Content: 42."]
    assert answer(prompt_of(HARMONY, USER, BEGUN).parser(None), "42.<|end|>") == ["Content: 42."]


def test_thinking_is_continued_without_content() -> None:
    prompt = prompt_of(THOUGHTFUL, USER, {"role": "assistant", "content": "", "reasoning_content": "First, "})
    assert prompt.text.endswith("[assistant]<think>First, ")
    assert answer(prompt.parser(None), "I add.</think>4") == ["Reasoning: I add.", "Content: 4"]
    with pytest.raises(RequestError, match="cannot continue the model's thinking"):
        prompt.begin_answer()


def test_thinking_is_continued_if_the_content_has_begun_it() -> None:
    prompt = prompt_of(THOUGHTFUL, USER, {"role": "assistant", "content": "<think>First, "})
    assert answer(prompt.parser(None), "I add.</think>4") == ["Reasoning: I add.", "Content: 4"]


def test_an_empty_message_is_an_open_turn() -> None:
    prompt = prompt_of(THOUGHTFUL, USER, {"role": "assistant", "content": ""})
    assert prompt.text == "[user]Hi[end][assistant]"


def test_a_forced_call_follows_the_text() -> None:
    prompt = prompt_of(THOUGHTFUL, USER, BEGUN)
    assert prompt.begin_call().endswith("The answer is\n<tool_call>\n")
    with pytest.raises(RequestError, match="With this model, a forced call cannot continue"):
        prompt_of(HARMONY, USER, BEGUN).begin_call()


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (USER, "Only a last message of the assistant can be continued"),
        ({**BEGUN, "tool_calls": [{}]}, r"'messages\[1\]' calls tools, so it cannot be continued"),
    ],
)
def test_messages_that_cannot_be_continued(last: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        prompt_of(CHATML, USER, last)
