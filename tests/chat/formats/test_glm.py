"""Outputs in the format that the templates of GLM 4.5 to 4.7 ask for."""

import pytest

from tests.chat.formats.cuts import SCHEMAS, Parsed, calls, check
from vram_llm.chat.formats.glm import glm
from vram_llm.chat.formats.thinking import thinking


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("\nHello", Parsed(content="\nHello")),
        (  # 4.6: newlines between the tags
            "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
            calls(("get_weather", '{"city": "Paris", "days": 3}')),
        ),
        (  # 4.7: none; two calls
            "Looking.<tool_call>now</tool_call><tool_call>write_file<arg_key>text</arg_key><arg_value>\n"
            'a "b" </arg\n</arg_value><arg_key>lines</arg_key><arg_value>["x"]</arg_value></tool_call>',
            calls(
                ("now", "{}"),
                ("write_file", '{"text": "\\na \\"b\\" </arg\\n", "lines": ["x"]}'),
                content="Looking.",
            ),
        ),
        (
            "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Par",
            Parsed(calls=[["get_weather", '{"city": "Par']]),
        ),
        (
            "<tool_call>get_weather<arg_key>city</arg_key>Paris",
            Parsed(content="Paris", calls=[["get_weather", "{"]]),
        ),
    ],
)
def test_outputs(text: str, parsed: Parsed) -> None:
    check(lambda: glm(SCHEMAS), text, parsed)


@pytest.mark.parametrize(
    "text", ["<tool_call>", "<tool_call>{}</tool_call>", "<tool_call>now", "<tool_call></tool_call>"]
)
def test_text_that_is_not_a_call_is_content(text: str) -> None:
    check(lambda: glm(SCHEMAS), text, Parsed(content=text))


def test_thinking_first() -> None:
    check(
        lambda: thinking("<think>", "</think>", glm(SCHEMAS), opened=False),
        "\n<think>The time.</think>\n<tool_call>now\n</tool_call>",
        calls(("now", "{}"), reasoning="The time."),
    )
