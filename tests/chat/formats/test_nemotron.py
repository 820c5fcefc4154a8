"""Outputs in the format that the template of Nemotron Nano 2 asks for: a list between tags."""

import pytest

from tests.chat.formats.cuts import Parsed, calls, check
from vram_llm.chat.formats.json_calls import objects
from vram_llm.chat.formats.thinking import thinking

nemotron = objects("<TOOLCALL>", closing="</TOOLCALL>")
PARIS = '{"city": "Paris"}'


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("No tool <TOOL needed.", Parsed(content="No tool <TOOL needed.")),
        (
            f'<TOOLCALL>[{{"name": "get_weather", "arguments": {PARIS}}}]</TOOLCALL>',
            calls(("get_weather", PARIS)),
        ),
        (
            f'Both.\n<TOOLCALL>[{{"name": "get_weather", "arguments": {PARIS}}}, '
            '{"name": "now", "arguments": {}}]</TOOLCALL>\n',
            calls(("get_weather", PARIS), ("now", "{}"), content="Both."),
        ),
        ('<TOOLCALL>{"name": "now", "arguments": {}}</TOOLCALL>', calls(("now", "{}"))),
        ('<TOOLCALL>[{"name": "now", "arguments": {"a"', Parsed(calls=[["now", '{"a"']])),
        (
            '<TOOLCALL>[{"name": "now", "arguments": {a}}]</TOOLCALL>.',
            Parsed(content=".", calls=[["now", "{a}}]"]]),
        ),
    ],
)
def test_outputs(text: str, parsed: Parsed) -> None:
    check(lambda: nemotron, text, parsed)


@pytest.mark.parametrize("text", ["<TOOLCALL>", "<TOOLCALL>[]</TOOLCALL>", "<TOOLCALL>[now()]</TOOLCALL>"])
def test_text_that_is_not_a_call_is_content(text: str) -> None:
    check(lambda: nemotron, text, Parsed(content=text))


def test_thinking_first() -> None:
    check(
        lambda: thinking("<think>", "</think>", nemotron, opened=True),
        'The time.\n</think>\n\n<TOOLCALL>[{"name": "now", "arguments": {}}]</TOOLCALL>',
        calls(("now", "{}"), reasoning="The time."),
    )
