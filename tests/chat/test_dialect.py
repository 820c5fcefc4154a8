"""The dialect that is found in a template; the pieces are those of the models' templates."""

import pytest

from vram_llm.chat.dialect import dialect_of
from vram_llm.chat.events import Content, Reasoning

TOOLS = "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
THINK = "{% if enable_thinking %}<think>\n\n</think>{% endif %}"
HERMES = TOOLS + '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
QWEN = TOOLS + "<tool_call>\n<function=example>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
LLAMA = "<|start_header_id|>" + TOOLS + '{"name": function name, "parameters": dictionary}'
DEEPSEEK = "{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>' }}</think>"


@pytest.mark.parametrize(
    ("template", "name", "takes_tools", "thinks", "effort"),
    [
        (None, "none", False, False, ""),
        ("{{ messages }}", "none", False, False, ""),
        (TOOLS, "none", False, False, ""),  # shows tools, in a way that nothing here parses
        (HERMES, "hermes", True, False, ""),
        (HERMES.replace('"', '\\"') + THINK, "hermes", True, True, "enable_thinking"),
        (QWEN, "qwen-xml", True, False, ""),
        (TOOLS + "<tool_call>{function-name}\n<arg_key>" + THINK, "glm", True, True, "enable_thinking"),
        (LLAMA, "llama-json", True, False, ""),
        (LLAMA.replace("<|start_header_id|>", ""), "none", False, False, ""),
        (TOOLS + "[TOOL_CALLS]", "mistral", True, False, ""),
        (TOOLS + "[TOOL_CALLS][THINK]", "mistral", True, True, ""),
        (TOOLS + DEEPSEEK, "deepseek", True, True, ""),
        (DEEPSEEK, "deepseek", False, True, ""),  # R1's distillations: calls in the history, no tools
        (TOOLS + "<TOOLCALL>[{}]</TOOLCALL>" + THINK, "nemotron", True, True, "enable_thinking"),
        (
            TOOLS + "<|start|>system<|message|>{{ reasoning_effort }}<|channel|>",
            "harmony",
            True,
            False,
            "reasoning_effort",
        ),
    ],
)
def test_dialects(template: str | None, name: str, takes_tools: bool, thinks: bool, effort: str) -> None:
    dialect = dialect_of(template)
    efforts = "".join(dialect.efforts.get("high", ()))
    found = (dialect.name, dialect.takes_tools, dialect.thinks is not None, efforts)
    assert found == (name, takes_tools, thinks, effort)


@pytest.mark.parametrize("template", [None, HERMES, THINK])
def test_thinking_is_read_though_no_template_shows_it(template: str | None) -> None:
    parser = dialect_of(template).parser(None, "prompt")
    assert parser is not None
    assert parser.feed("<think>hm</think>\nyes") == [Reasoning("hm"), Content("yes")]


def test_a_prompt_may_open_the_thinking() -> None:
    dialect = dialect_of(THINK)
    for prompt, text in (("<think>\n", "hm</think>yes"), ("", "<think>hm</think>yes")):
        parser = dialect.parser(None, prompt)
        assert parser is not None
        assert [type(event).__name__ for event in parser.feed(text)] == ["Reasoning", "Content"]


def test_marks_are_what_the_parser_must_see() -> None:
    assert {"<|channel|>", "<|call|>"} <= set(dialect_of("<|channel|><|message|>tools").marks)
    assert {"[TOOL_CALLS]", "[THINK]", "[/THINK]"} <= set(dialect_of(TOOLS + "[TOOL_CALLS][THINK]").marks)
    assert "<|python_tag|>" in dialect_of(LLAMA).marks
