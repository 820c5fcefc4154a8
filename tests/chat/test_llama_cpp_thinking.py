"""Thinking of the models whose templates llama.cpp collects: each answer as its model writes it.

Source of the answers: the templates themselves, and tests/test-chat.cpp of llama.cpp.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.chat.formats.cuts import Parsed, check_parser, run
from tests.chat.templates import NAMES, source_of
from vram_llm.chat import history
from vram_llm.chat.dialect import Dialect, dialect_of
from vram_llm.chat.reader import Parser
from vram_llm.chat.template import ChatTemplate

pytestmark = pytest.mark.process  # computes for many seconds

T, C = "I'm\nthinking <b>", "Hello, `</b>`!\nWhat's [up]?"
OPENED = f"{T}\n</think>\n\n{C}"  # by the prompt
WRITTEN = f"<think>\n{T}\n</think>\n\n{C}"
TIGHT = f"{T}</think>{C}"

THINKING = {  # what the model writes where it shall think
    "Apertus-8B-Instruct": f"<|inner_prefix|>{T}<|inner_suffix|>{C}",
    "Apriel-1.6-15b-Thinker-fixed": f"{T}\n[BEGIN FINAL RESPONSE]\n{C}",
    "Bielik-11B-v3.0-Instruct": OPENED,
    "ByteDance-Seed-OSS": f"<seed:think>{T}</seed:think>\n{C}",
    "Cohere2MoE": f"{T}<|END_THINKING|><|START_TEXT|>{C}<|END_TEXT|>",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": (
        f"<|START_THINKING|>{T}<|END_THINKING|><|START_RESPONSE|>{C}<|END_RESPONSE|>"
    ),
    "GLM-4.6": f"\n<think>{T}</think>\n{C}",
    "GLM-4.7-Flash": TIGHT,
    "HuggingFaceTB-SmolLM3-3B": WRITTEN,
    "Kimi-K2-Thinking": f"<think>{T}</think>{C}",
    "Kimi-K3": (
        f"{T}<|close|>think<|sep|><|open|>response<|sep|>{C}<|close|>response<|sep|><|close|>message<|sep|>"
    ),
    "LFM2.5-8B-A1B": f"<think>{T}</think>{C}",
    "LFM2.5-Instruct": f"<think>{T}</think>{C}",
    "MiniMax-M2": OPENED,
    "MiniMax-M3": f"{T}</mm:think>{C}",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": OPENED,
    "NVIDIA-Nemotron-Nano-v2": OPENED,
    "Qwen-QwQ-32B": OPENED,
    "Qwen-Qwen3-0.6B": WRITTEN,
    "Qwen3.5-4B": OPENED,
    "Reka-Edge": OPENED,
    "Spark2.5": TIGHT,
    "StepFun3.5-Flash": OPENED,
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": OPENED,
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": OPENED,
    "deepseek-ai-DeepSeek-V3.1": TIGHT,
    "deepseek-ai-DeepSeek-V3.2": TIGHT,
    "deepseek-ai-DeepSeek-V4": TIGHT,
    "deepseek-ai-DeepSeek-V4-Flash-0731": TIGHT,
    "google-gemma-4-31B-it": f"<|channel>thought\n{T}\n<channel|>{C}",
    "google-gemma-4-31B-it-interleaved": f"<|channel>thought\n{T}<channel|>{C}",
    "ibm-granite-granite-3.3-2B-Instruct": f"<think>{T}</think><response>{C}</response>",
    "inclusionai-ling-3.0-flash": TIGHT,
    "llama-cpp-deepseek-r1": OPENED,
    "llama-cpp-rwkv-world": OPENED,
    "mistralai-Ministral-3-14B-Reasoning-2512": f"[THINK]{T}[/THINK]{C}",
    "muse-glimmer": f" to=self<|message|>{T}<|eom|><|start|>assistant to=user<|message|>{C}",
    "openai-gpt-oss-120b": (
        f"<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>final<|message|>{C}"
    ),
    "openbmb-MiniCPM5-1B": OPENED,
    "poolside-Laguna-S-2.1": TIGHT,
    "poolside-Laguna-XS-2.1": OPENED,
    "poolside-Laguna-XS.2": OPENED,
    "tencent-Hy3": f"{T}</think:opensource>{C}",
    "unsloth-Apriel-1.5": f"{T}\n[BEGIN FINAL RESPONSE]\n{C}\n[END FINAL RESPONSE]",
    "upstage-Solar-Open-100B": f"<|think|>{T}<|end|><|begin|>assistant<|content|>{C}<|end|>",
}
NOT_SHOWN = {  # no template shows it; the model thinks all the same, or may
    "GigaChat3.1-10B-A1.8B": WRITTEN,
    "MiMo-VL": WRITTEN,
    "MiniMax-M1": WRITTEN,
    "ibm-granite-granite-4.0": WRITTEN,
}
ANSWERS = {  # what the model writes where it shall not think, if more than the answer
    "Cohere2MoE": f"<|START_TEXT|>{C}<|END_TEXT|>",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": f"<|START_RESPONSE|>{C}<|END_RESPONSE|>",
    "Kimi-K3": f"{C}<|close|>response<|sep|><|close|>message<|sep|>",
    "muse-glimmer": f" to=user<|message|>{C}",
    "openai-gpt-oss-120b": f"<|channel|>final<|message|>{C}",
    "upstage-Solar-Open-100B": f"<|content|>{C}<|end|>",
}


def prompt_of(name: str, dialect: Dialect, effort: str) -> str:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
    names = dialect.efforts.get(effort, {})
    return ChatTemplate(source_of(name), "", "").render(messages, tools=[], **names)


def parsers(name: str, effort: str, *, tools: bool) -> Callable[[], Parser]:
    dialect = dialect_of(source_of(name))
    prompt = prompt_of(name, dialect, effort)
    if effort == "none" and not dialect.efforts:
        prompt = dialect.begin_answer(prompt)

    def new() -> Parser:
        parser = dialect.parser({"f": {}} if tools else None, prompt)
        assert parser is not None
        return parser

    return new


def test_every_template_that_thinks_is_here() -> None:
    thinking = {name for name in NAMES if dialect_of(source_of(name)).thinking is not None}
    assert thinking == set(THINKING)
    assert len(thinking) == 45


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("name", [*THINKING, *NOT_SHOWN])
def test_thinking_is_kept_apart(name: str, tools: bool) -> None:
    text = {**THINKING, **NOT_SHOWN}[name]
    check_parser(parsers(name, "high", tools=tools), text, Parsed(content=C, reasoning=T))


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize("name", [*THINKING, *NOT_SHOWN])
def test_answers_without_thinking(name: str, tools: bool) -> None:
    check_parser(parsers(name, "none", tools=tools), ANSWERS.get(name, C), Parsed(content=C))


@pytest.mark.parametrize("name", [*THINKING, *NOT_SHOWN])
def test_thinking_that_is_never_closed(name: str) -> None:
    text = {**THINKING, **NOT_SHOWN}[name]
    text = text[: text.index(T) + len(T)]
    check_parser(parsers(name, "high", tools=True), text, Parsed(reasoning=T))


@pytest.mark.parametrize("name", THINKING)
def test_special_tokens_are_listed(name: str) -> None:
    dialect = dialect_of(source_of(name))
    assert dialect.thinks is not None
    assert set(dialect.thinks) - {""} <= set(dialect.marks)


FIELDS = {  # where templates read earlier thinking, if not in reasoning_content
    "LFM2.5-8B-A1B": "thinking",
    "mistralai-Ministral-3-14B-Reasoning-2512": "content",
    "openai-gpt-oss-120b": "thinking",
    "upstage-Solar-Open-100B": "reasoning",
}


@pytest.mark.parametrize(("name", "field"), FIELDS.items())
def test_earlier_thinking_is_given_where_the_template_reads_it(name: str, field: str) -> None:
    source = source_of(name)
    dialect, template = dialect_of(source), ChatTemplate(source, "", "")
    assert dialect.thinking is not None
    assert dialect.thinking.field == field
    chat = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "A thought."},
    ]
    shown = history.messages_for_template(chat, [], dialect, template)
    prompt = template.render(shown, tools=[], add_generation_prompt=False)
    assert prompt.index("A thought.") < prompt.index("Yes.")


def test_how_many_templates_show_earlier_thinking() -> None:
    found = [dialect_of(source_of(name)).thinking for name in THINKING]
    fields = [thinking.field for thinking in found if thinking is not None and thinking.field]
    assert len(fields) == 33
    assert fields.count("reasoning_content") == 33 - len(FIELDS)


ZONE = {"type": "object", "properties": {"zone": {"type": "string", "description": "Its name"}}}
TOOL = {"type": "function", "function": {"name": "now", "description": "The time", "parameters": ZONE}}
CALL = {"id": "call_0123", "type": "function", "function": {"name": "now", "arguments": '{"zone": "CET"}'}}
CALLED = [  # templates that show a call and the thinking before it, behind a prompt of theirs
    "ByteDance-Seed-OSS", "Bielik-11B-v3.0-Instruct", "Cohere2MoE",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use", "GLM-4.6", "GLM-4.7-Flash", "Kimi-K2-Thinking",
    "Kimi-K3", "LFM2.5-8B-A1B", "MiniMax-M2", "MiniMax-M3", "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "Qwen-Qwen3-0.6B",
    "Qwen3.5-4B", "Reka-Edge", "Spark2.5", "StepFun3.5-Flash", "deepseek-ai-DeepSeek-V3.2",
    "deepseek-ai-DeepSeek-V4", "deepseek-ai-DeepSeek-V4-Flash-0731", "google-gemma-4-31B-it",
    "google-gemma-4-31B-it-interleaved", "inclusionai-ling-3.0-flash",
    "mistralai-Ministral-3-14B-Reasoning-2512", "muse-glimmer", "openai-gpt-oss-120b", "openbmb-MiniCPM5-1B",
    "poolside-Laguna-S-2.1", "poolside-Laguna-XS-2.1", "poolside-Laguna-XS.2", "tencent-Hy3",
    "upstage-Solar-Open-100B",
]  # fmt: skip


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("name", CALLED)
def test_a_call_after_thinking_is_read_as_the_template_writes_it(name: str, closed: bool) -> None:
    """Some models forget to close their thinking before a call."""
    source = source_of(name)
    dialect, template = dialect_of(source), ChatTemplate(source, "", "")
    names = {"enable_thinking": True, **dialect.efforts.get("high", {})}
    user = {"role": "user", "content": "What time is it?"}
    answer = {"role": "assistant", "content": "", "reasoning_content": T, "tool_calls": [CALL]}

    def render(messages: list[dict[str, Any]], **more: Any) -> str:
        shown = history.messages_for_template(messages, [TOOL], dialect, template)
        return template.render(shown, tools=[TOOL], **names, **more)

    prompt, whole = render([user]), render([user, answer], add_generation_prompt=False)
    assert whole.startswith(prompt)
    parser = dialect.parser({"now": ZONE}, prompt)
    assert parser is not None
    assert dialect.thinks is not None
    written = whole[len(prompt) :]
    parsed = run(parser, written if closed else written.replace(dialect.thinks[1], "", 1))
    assert parsed.reasoning == T
    assert [(name, json.loads(arguments)) for name, arguments in parsed.calls] == [("now", {"zone": "CET"})]
    assert not any(mark in parsed.content for mark in dialect.thinks if mark)


@pytest.mark.parametrize("effort", ["none", "high"])
@pytest.mark.parametrize("name", THINKING)
def test_an_answer_that_is_begun_has_no_thinking(name: str, effort: str) -> None:
    dialect = dialect_of(source_of(name))
    begun = dialect.begin_answer(prompt_of(name, dialect, effort))
    assert begun.startswith(prompt_of(name, dialect, effort))
    if dialect.form.thinks:
        assert begun.endswith(dialect.form.answer_begins)
        return  # its parser reads the header, which the prompt now has
    assert dialect.begin_answer(begun) == begun
    parser = dialect.parser(None, begun)
    assert parser is not None
    assert run(parser, C) == Parsed(content=C)
