"""Outputs in the format that the template of MiniMax M3 asks for."""

import pytest

from tests.chat.formats.cuts import Parsed, calls, check, run
from vram_llm.chat.formats.minimax_m3 import minimax_m3
from vram_llm.chat.reader import Parser

STRING = {"type": "string"}
PLACE = {"type": "object", "properties": {"x": {"type": "number"}, "note": STRING}}
SCHEMAS = {
    "now": {},
    "book": {
        "type": "object",
        "$defs": {"Place": PLACE},
        "properties": {
            "who": STRING,
            "seats": {"type": "integer"},
            "place": {"$ref": "#/$defs/Place"},
            "dishes": {"type": "array", "items": STRING},
            "tables": {"type": "array", "items": {"$ref": "#/$defs/Place"}},
            "either": {"anyOf": [STRING, {"type": "array", "items": STRING}]},
            "extra": {"type": "object"},
            "remark": {"anyOf": [STRING, {"type": "null"}]},
        },
    },
}


def tags(text: str) -> str:
    """`text` with the mark before each of its tags."""
    return text.replace("<", "]<]minimax[>[<")


def book(*members: str) -> str:
    return tags(f'<tool_call>\n<invoke name="book">{"".join(members)}</invoke>\n</tool_call>')


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Take <b> or <tool_call>.", Parsed(content="Take <b> or <tool_call>.")),
        (
            "One."
            + tags('<tool_call>\n<invoke name="now"></invoke>\n<invoke name="now"></invoke>\n</tool_call>'),
            calls(("now", "{}"), ("now", "{}"), content="One."),
        ),
        (
            book("<who>Zoë\n& 5 > 6</who>", "<seats>4</seats>"),
            calls(("book", '{"who": "Zoë\\n& 5 > 6", "seats": 4}')),
        ),
        (
            book("<place><x>1.5</x><note>2</note></place>", "<dishes><item>1</item><item></item></dishes>"),
            calls(("book", '{"place": {"x": 1.5, "note": "2"}, "dishes": ["1", ""]}')),
        ),
        (
            book("<tables><item><x>1</x></item><item><note>a</note></item></tables>", "<either>a</either>"),
            calls(("book", '{"tables": [{"x": 1}, {"note": "a"}], "either": "a"}')),
        ),
        (
            book(
                "<either><item>7</item></either>",
                "<extra></extra>",
                "<dishes></dishes>",
                "<remark>7</remark>",
            ),
            calls(("book", '{"either": ["7"], "extra": {}, "dishes": [], "remark": "7"}')),
        ),
        (  # a tool that nobody offered
            tags('<invoke name="other"><a>true</a><b><c>x</c></b></invoke>'),
            calls(("other", '{"a": true, "b": {"c": "x"}}')),
        ),
        (
            tags('<tool_call><invoke name="book"><who>Zo'),
            Parsed(calls=[["book", '{"who": "Zo']]),
        ),
    ],
)
def test_outputs(text: str, parsed: Parsed) -> None:
    check(lambda: minimax_m3(SCHEMAS), text, parsed)


def test_nesting_has_an_end() -> None:
    parsed = run(Parser(minimax_m3(SCHEMAS)), [tags('<invoke name="other">' + "<a>" * 5000)])
    assert parsed.calls[0][0] == "other"
    assert not parsed.whole
