"""Which dialect a template speaks, by what it has in it; the pieces are those of the models' templates."""

import pytest

from vram_llm.chat.dialect import dialect_of

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
    found = (dialect.name, dialect.takes_tools, dialect.thinks is not None, dialect.effort)
    assert found == (name, takes_tools, thinks, effort)


@pytest.mark.parametrize(
    ("template", "tools", "parses"),
    [(None, False, False), (None, True, True), (HERMES, False, False), (THINK, False, True)],
)
def test_plain_text_is_not_parsed(template: str | None, tools: bool, parses: bool) -> None:
    assert (dialect_of(template).parser({} if tools else None, "prompt") is not None) is parses


def test_a_prompt_may_open_the_thinking() -> None:
    dialect = dialect_of(THINK)
    for prompt, text in (("<think>\n", "hm</think>yes"), ("", "<think>hm</think>yes")):
        parser = dialect.parser(None, prompt)
        assert parser is not None
        assert [type(event).__name__ for event in parser.feed(text)] == ["Reasoning", "Content"]


def test_marks_are_what_the_parser_must_see() -> None:
    assert {"<|channel|>", "<|call|>"} <= set(dialect_of("<|channel|><|message|>tools").marks)
    assert {"[TOOL_CALLS]", "[THINK]", "[/THINK]"} <= set(dialect_of("tools [TOOL_CALLS][THINK]").marks)
    assert "<|python_tag|>" in dialect_of(LLAMA).marks
