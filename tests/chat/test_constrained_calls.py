"""How calls are read if a grammar constrains the answer."""

import pytest

from tests.chat.formats.cuts import Parsed, calls, check
from vram_llm.chat.constrained_calls import json_calls_between, read_forced_call
from vram_llm.chat.dialect import dialect_of


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"name": "now", "arguments": {"a": 1}}', calls(("now", '{"a": 1}'))),
        ('\n{"name": "now", "arguments": {"a":', Parsed(calls=[["now", '{"a":']])),
        ('{"name": "no', Parsed(content='{"name": "no')),
    ],
)
def test_reading(text: str, parsed: Parsed) -> None:
    check(lambda: read_forced_call, text, parsed)


CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (f"A {CALL} b {CALL}", calls(("now", "{}"), ("now", "{}"), content="Ab")),
        ("A <tool_call> b", Parsed(content="A <tool_call> b")),
        (
            f'{CALL}<tool_call>{{"name": "now", "arguments": {{"a',
            Parsed(calls=[["now", "{}"], ["now", '{"a']], whole=[0]),
        ),
    ],
)
def test_reading_between_marks(text: str, parsed: Parsed) -> None:
    check(lambda: json_calls_between("<tool_call>", "</tool_call>"), text, parsed)


THINKS = 'tools <tool_call> "arguments" <think></think>'


@pytest.mark.parametrize(
    ("template", "prompt", "answering", "calling"),
    [
        (None, "p", "p", "p<tool_call>\n"),
        (THINKS, "p", "p<think>\n\n</think>\n\n", "p<think>\n\n</think>\n\n<tool_call>\n"),
        (THINKS, "p<think>\n", "p<think>\n\n</think>\n\n", "p<think>\n\n</think>\n\n<tool_call>\n"),
        (THINKS, "p<think></think>\n", "p<think></think>\n", "p<think></think>\n<tool_call>\n"),
        ("{{ tools }}[TOOL_CALLS]", "p", "p", "p[TOOL_CALLS]["),
        (
            "{{ tools }}<|channel|><|message|>",
            "p",
            "p<|channel|>final<|message|>",
            "p<|channel|>commentary<|message|>",
        ),
    ],
)
def test_prompts_go_past_the_thinking(
    template: str | None, prompt: str, answering: str, calling: str
) -> None:
    dialect = dialect_of(template)
    assert (dialect.begin_answer(prompt), dialect.begin_call(prompt)) == (answering, calling)
