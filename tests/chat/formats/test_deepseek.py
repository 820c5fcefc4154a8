"""Outputs in the formats that DeepSeek's templates ask for."""

import pytest

from tests.chat.formats.cuts import Parsed, calls, check
from vram_llm.chat.formats.deepseek import CALL, CALL_END, CALLS, CALLS_END, SEP, deepseek
from vram_llm.chat.formats.thinking import thinking

PARIS = '{"city": "Paris"}'
WEATHER = f"{CALL}function{SEP}get_weather\n```json\n{PARIS}\n```{CALL_END}"
NOW = f"{CALL}function{SEP}now\n```json\n{{}}\n```{CALL_END}"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Hello ｜ <｜", Parsed(content="Hello ｜ <｜")),
        (f"{CALLS}{WEATHER}{CALLS_END}", calls(("get_weather", PARIS))),
        (
            f"Sure.\n{CALLS}{WEATHER}\n{NOW}{CALLS_END}",
            calls(("get_weather", PARIS), ("now", "{}"), content="Sure."),
        ),
        (  # V3.1
            f"{CALLS}{CALL}get_weather{SEP}{PARIS}{CALL_END}{CALL}function{SEP}{{}}{CALL_END}{CALLS_END}",
            calls(("get_weather", PARIS), ("function", "{}")),
        ),
        (WEATHER, calls(("get_weather", PARIS))),  # the outer mark forgotten
        (f'{CALLS}{CALL}now{SEP}{{"a": ', Parsed(calls=[["now", '{"a": ']])),
        (
            f"{CALLS}{CALL}now{SEP}{{a}}{CALL_END}{CALLS_END}",
            Parsed(content=CALLS_END, calls=[["now", "{a}"]]),
        ),
    ],
)
def test_outputs(text: str, parsed: Parsed) -> None:
    check(lambda: deepseek, text, parsed)


@pytest.mark.parametrize(
    "text",
    [CALLS, f"{CALLS}{CALL}", f"{CALL}now{SEP}", f"{CALL}function{SEP}now {{}}", f"{CALL}a b{SEP}{{}}"],
)
def test_text_that_is_not_a_call_is_content(text: str) -> None:
    check(lambda: deepseek, text, Parsed(content=text))


def test_thinking_first() -> None:
    check(
        lambda: thinking("<think>", "</think>", deepseek, opened=True),
        f"The time.\n</think>\n\n{CALLS}{NOW}{CALLS_END}",
        calls(("now", "{}"), reasoning="The time."),
    )
