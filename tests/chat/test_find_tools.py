"""llama.cpp's templates: each writes calls in a format that is read back, or is named with the reason."""

import json
from typing import Any

import pytest

from tests.chat.formats.cuts import fold
from tests.chat.templates import NAMES, source_of
from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.history import messages_for_template
from vram_llm.chat.reader import Parser
from vram_llm.chat.template import ChatTemplate

pytestmark = pytest.mark.process  # computes for many seconds

NO_TOOLS = {  # templates that show no tools to the model: a system message of ours does
    "HuggingFaceTB-SmolLM3-3B": "this edition has lost its list of tools",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "shows calls, and no tools",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "shows calls, and no tools",
    "deepseek-ai-DeepSeek-V3.1": "shows calls, and no tools",
    "google-gemma-2-2b-it": "never trained on tools",
    "llama-cpp-rwkv-world": "never trained on tools",
    "microsoft-Phi-3.5-mini-instruct": "never trained on tools",
}
LEAST_NATIVE = 55
STRING = {"type": "string", "description": "a text"}
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": STRING,
        "days": {"type": "integer", "description": "a number"},
        "exact": {"type": "boolean", "description": "a switch"},
        "options": {
            "type": "object",
            "description": "nested",
            "additionalProperties": False,
            "properties": {
                "unit": STRING,
                "hours": {"type": "array", "description": "hours", "items": {"type": "integer"}},
                "deep": {
                    "type": "object",
                    "description": "deeper",
                    "additionalProperties": False,
                    "properties": {"x": {"type": "number"}},
                },
            },
        },
        "tags": {"type": "array", "description": "words", "items": STRING},
    },
    "required": ["city"],
}
SCHEMAS = {"get_weather": PARAMETERS, "get_time": {"type": "object", "properties": {}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "a tool", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
PARIS = ("get_weather", {"city": "Paris", "days": 3})
NOW: tuple[str, dict[str, Any]] = ("get_time", {})
CHATS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "one": [PARIS],
    "no arguments": [NOW],
    "nested": [
        (
            "get_weather",
            {
                "city": "Rome",
                "exact": True,
                "options": {"unit": "C", "hours": [6, 12], "deep": {"x": 1.5}},
                "tags": ["a", "b c"],
            },
        )
    ],
    "text": [("get_weather", {"city": 'the "old" town, it\'s\n  <b>Zürich</b> & 東京 😀 {x: [1]} | 5 < 6'})],
    "number as text": [("get_weather", {"city": "75001", "days": -2})],
    "two": [PARIS, NOW],
}
SINGLE = (  # templates that show one call in a message
    "GigaChat3-10B-A1.8B",
    "GigaChat3.1-10B-A1.8B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "openai-gpt-oss-120b",
)


def test_most_templates_show_tools_themselves() -> None:
    native = [name for name in NAMES if dialect_of(source_of(name)).takes_tools]
    assert len(native) >= LEAST_NATIVE
    assert set(NAMES) - set(native) == set(NO_TOOLS)


def written(source: str, calls: list[tuple[str, dict[str, Any]]], content: str = "") -> tuple[str, str]:
    """The prompt before the assistant's turn, and what the turn wrote to make `calls`."""
    template = ChatTemplate(source, "", "")
    dialect = dialect_of(source)
    made = [
        {
            "id": f"call_{i}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
        }
        for i, (name, arguments) in enumerate(calls)
    ]
    user = {"role": "user", "content": "Hello"}
    turn = {"role": "assistant", "content": content, "tool_calls": made}
    prompt = template.render([user], tools=TOOLS)
    text = template.render(
        messages_for_template([user, turn], TOOLS, dialect, template),
        tools=TOOLS,
        add_generation_prompt=False,
    )
    at = next((i for i, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b), len(prompt))
    tag = text.rfind("<", 0, at)  # the prompt's last tag may begin as the call does
    return prompt, text[tag if prompt[at:] and tag >= 0 else at :]


NATIVE = sorted(set(NAMES) - set(NO_TOOLS))


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", NATIVE)
def test_calls_are_read_back(name: str, chat: str) -> None:
    if chat == "two" and name in SINGLE:
        pytest.skip("the template shows one call in a message")
    source, calls = source_of(name), CHATS[chat]
    _, text = written(source, calls)
    cuts = range(len(text)) if chat in ("one", "text") else range(0, len(text), 7)
    for at in cuts:
        parser = Parser(dialect_of(source).form.parse_function(SCHEMAS))
        parsed = fold([*parser.feed(text[:at]), *parser.feed(text[at:]), *parser.finish()])
        assert [(name, json.loads(arguments)) for name, arguments in parsed.calls] == calls, text
        assert parsed.whole == list(range(len(calls)))


@pytest.mark.parametrize("name", [name for name in NATIVE if "Llama-3." not in name or "Hermes" in name])
def test_content_and_a_call_are_read_back_after_the_prompt(name: str) -> None:
    dialect = dialect_of(source_of(name))
    prompt, text = written(source_of(name), [PARIS], "Let me look.")
    parser = dialect.parser(SCHEMAS, prompt)
    assert parser is not None
    parsed = fold([*(event for char in text for event in parser.feed(char)), *parser.finish()])
    assert [(name, json.loads(arguments)) for name, arguments in parsed.calls] == [PARIS], text
    assert "Let me look." in parsed.content + parsed.reasoning


UNKNOWN = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}{% for c in m.tool_calls or [] %}WRITTEN{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("written", "begins"),
    [
        (  # InternLM 2.5
            '<|action_start|><|plugin|>\n{"name": "{{ c.function.name }}", "parameters": '
            "{{ c.function.arguments | tojson }}}<|action_end|>",
            "<|plugin|>",
        ),
        (
            '<call>[{"name": "{{ c.function.name }}", "arguments": '
            "{{ c.function.arguments | tojson }}}]</call>",
            "<call>[",
        ),
    ],
)
def test_json_after_a_mark_is_read_in_unknown_templates(written: str, begins: str) -> None:
    dialect = dialect_of(UNKNOWN.replace("WRITTEN", written))
    assert (dialect.name, dialect.takes_tools, dialect.form.call_begins) == ("objects", True, begins)


def test_a_call_without_a_mark_is_not_read_in_an_unknown_template() -> None:
    written = "I call {{ c.function.name }} with {{ c.function.arguments | tojson }}"
    dialect = dialect_of(UNKNOWN.replace("WRITTEN", written))
    assert (dialect.name, dialect.takes_tools) == ("none", False)


@pytest.mark.parametrize("opening", ["<|tool_calls_section_begin|>", ""])
def test_kimi_may_call_before_it_has_closed_its_thinking(opening: str) -> None:
    source = source_of("Kimi-K2-Thinking")
    prompt = ChatTemplate(source, "", "").render([{"role": "user", "content": "Hello"}], tools=TOOLS)
    parser = dialect_of(source).parser(SCHEMAS, prompt)
    assert parser is not None
    call = '<|tool_call_begin|>functions.get_time:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>'
    parsed = fold([*parser.feed(f"<think>I need the time.{opening}{call}"), *parser.finish()])
    assert (parsed.reasoning, parsed.calls) == ("I need the time.", [["get_time", '{"a": 1}']])
