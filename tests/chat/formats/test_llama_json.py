"""Outputs in the format that the templates of Llama 3.1 to 3.3 ask for."""

import pytest

from tests.chat.formats.cuts import Parsed, calls, check
from vram_llm.chat.formats.llama_json import llama_json

NAMES = frozenset({"get_weather", "now"})
PARIS = '{"city": "Paris"}'


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Hello {you}.", Parsed(content="Hello {you}.")),
        (f'{{"name": "get_weather", "parameters": {PARIS}}}', calls(("get_weather", PARIS))),
        (
            f'<|python_tag|>{{"name": "get_weather", "parameters": {PARIS}}}',
            calls(("get_weather", PARIS)),
        ),
        (  # several, parted by a semicolon or a newline
            f'\n{{"type": "function", "name": "get_weather", "parameters": {PARIS}}}; '
            '{"name": "now", "parameters": {}}\n{"name": "now", "parameters": {}}',
            calls(("get_weather", PARIS), ("now", "{}"), ("now", "{}")),
        ),
        (  # a remark first, as the tag allows
            'Let me see.\n<|python_tag|>{"name": "now", "parameters": {}}',
            calls(("now", "{}"), content="Let me see."),
        ),
        (
            f'{{"name": "get_weather", "arguments": {PARIS}}}\n\nThat is all.',
            calls(("get_weather", PARIS), content="That is all."),
        ),
        (
            '{"name": "get_weather", "parameters": {"city": "Pa',
            Parsed(calls=[["get_weather", '{"city": "Pa']]),
        ),
    ],
)
def test_outputs(text: str, parsed: Parsed) -> None:
    check(lambda: llama_json(NAMES), text, parsed)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ann", "parameters": {}}',  # an answer in JSON, not a call
        '{"name": "now", ',
        '{"age": 3}',
        "{",
        '<|python_tag|>brave_search.call(query="weather")',
        "\n ",
    ],
)
def test_text_that_is_not_a_call_is_content(text: str) -> None:
    check(lambda: llama_json(NAMES), text, Parsed(content=text))
