"""Outputs in the format that the templates of Hermes 3, Qwen2.5 and Qwen3 ask for."""

import pytest

from tests.chat.formats.cuts import Parsed, calls, check
from vram_llm.chat.formats.hermes import hermes
from vram_llm.chat.formats.thinking import thinking

PARIS = '{"city": "Paris"}'


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("It is sunny.\n", Parsed(content="It is sunny.\n")),
        (
            f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>',
            calls(("get_weather", PARIS)),
        ),
        (  # two calls, and a remark before them
            f'Let me look.\n\n<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>\n'
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
            calls(("get_weather", PARIS), ("now", "{}"), content="Let me look."),
        ),
        (  # everything JSON has, with text that looks like the end
            '<tool_call>{"name": "write_file", "arguments": {"text": "a \\"b\\" </tool_call> {\\u00e9}\\n", '
            '"n": [1, -2.5e3, null, true, {"x": {}}], "é😀": "ü"}}</tool_call>',
            calls(
                (
                    "write_file",
                    '{"text": "a \\"b\\" </tool_call> {\\u00e9}\\n", '
                    '"n": [1, -2.5e3, null, true, {"x": {}}], "é😀": "ü"}',
                )
            ),
        ),
        (  # arguments first, an id beside them
            f'<tool_call>{{"id": 7, "arguments": {PARIS}, "name": "get_weather"}}</tool_call>',
            calls(("get_weather", PARIS)),
        ),
        (  # arguments as a string, as null, and left out
            '<tool_call>{"name": "a", "arguments": "{\\"x\\": 1}"}</tool_call>'
            '<tool_call>{"name": "b", "arguments": null}</tool_call><tool_call>{"name": "c"}</tool_call>',
            calls(("a", '{"x": 1}'), ("b", "{}"), ("c", "{}")),
        ),
        (  # one brace too many, and an answer after it
            f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}}}\n</tool_call>\nDone.',
            calls(("get_weather", PARIS), content="Done."),
        ),
        (  # the closing tag forgotten
            f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n'
            '<tool_call>\n{"name": "now", "arguments": {}}',
            calls(("get_weather", PARIS), ("now", "{}")),
        ),
        (  # cut off by max_tokens within the arguments
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par',
            Parsed(calls=[["get_weather", '{"city": "Par']]),
        ),
        (  # Python in place of JSON within the arguments: the client gets what the model wrote
            '<tool_call>{"name": "a", "arguments": {"x": \'y\'}}</tool_call>ok',
            Parsed(content="ok", calls=[["a", "{\"x\": 'y'}}"]]),
        ),
    ],
)
def test_outputs(text: str, parsed: Parsed) -> None:
    check(lambda: hermes, text, parsed)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call>\n</tool_call>",
        "<tool_call>not JSON</tool_call>",
        '<tool_call>{"name": "a"',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "a b", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "a", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "a", "arguments": "no object"}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"arguments": ' + "[" * 100,
        "a < b, <tool_cal",
        "<tool_calls> are written so",
    ],
)
def test_text_that_is_not_a_call_is_content(text: str) -> None:
    check(lambda: hermes, text, Parsed(content=text))


def test_a_call_after_a_false_one() -> None:
    text = '<tool_call>oops</tool_call>\n<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    check(lambda: hermes, text, calls(("now", "{}"), content="<tool_call>oops</tool_call>"))


@pytest.mark.parametrize("opened", [False, True])
def test_thinking_first(opened: bool) -> None:
    text = (
        ("\n" if opened else "<think>\n") + "Paris, I\nthink < maybe.\n</think>\n\n"
        f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>'
    )
    parsed = calls(("get_weather", PARIS), reasoning="Paris, I\nthink < maybe.")
    check(lambda: thinking("<think>", "</think>", hermes, opened=opened), text, parsed)


def test_thinking_that_does_not_end() -> None:
    check(
        lambda: thinking("<think>", "</think>", hermes, opened=True),
        "hm, <tool_call> or </thin",
        Parsed(reasoning="hm, <tool_call> or </thin"),
    )


def test_an_answer_without_thinking() -> None:
    check(
        lambda: thinking("<think>", "</think>", hermes, opened=False),
        "\n<thin ice",
        Parsed(content="\n<thin ice"),
    )
