"""Outputs in gpt-oss's format, as OpenAI's guide to it describes them."""

import pytest

from tests.chat.formats.cuts import Parsed, calls, check
from vram_llm.chat.formats.harmony import harmony

PARIS = '{"city": "Paris"}'
THOUGHT = "<|channel|>analysis<|message|>Ask the tool.<|end|>"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        (
            f"{THOUGHT}<|start|>assistant<|channel|>final<|message|>2 < 3.<|return|>",
            Parsed(content="2 < 3.", reasoning="Ask the tool."),
        ),
        (
            f"{THOUGHT}<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json"
            f"<|message|>{PARIS}<|call|>",
            calls(("get_weather", PARIS), reasoning="Ask the tool."),
        ),
        (  # the template's own order, and no end: the last token ended the generation
            f" to=functions.get_weather<|channel|>commentary json<|message|>{PARIS}",
            calls(("get_weather", PARIS)),
        ),
        (  # a remark before the call, a tool outside of functions
            f"{THOUGHT}<|start|>assistant<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant"
            "<|channel|>commentary to=now<|message|>{}<|call|>",
            calls(("now", "{}"), content="One moment.", reasoning="Ask the tool."),
        ),
        ("<|channel|>analysis<|message|>Still thin", Parsed(reasoning="Still thin")),
        (
            '<|channel|>commentary to=functions.now <|constrain|>json<|message|>{"a": ',
            Parsed(calls=[["now", '{"a": ']]),
        ),
        (
            "<|channel|>commentary to=functions.now<|message|>{a}<|call|>",
            Parsed(calls=[["now", "{a}"]]),
        ),
        (  # code for a built-in tool that is not there
            "<|channel|>commentary to=python<|message|>print(1)<|call|>",
            Parsed(content="print(1)"),
        ),
        ("no header at all", Parsed(content="no header at all")),
        ("<|channel|>final", Parsed(content="<|channel|>final")),
    ],
)
def test_outputs(text: str, parsed: Parsed) -> None:
    check(lambda: harmony, text, parsed)
