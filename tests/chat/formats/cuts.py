"""Feeds a model's output to a parser, cut in every way, and compares what comes out."""

import codecs
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vram_llm.chat.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning, Unopened
from vram_llm.chat.reader import Grammar, Parser

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FILE = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "text": {"type": "string"},
        "lines": {"type": "array"},
        "force": {"type": "boolean"},
        "mode": {},
    },
}
SCHEMAS = {"get_weather": WEATHER, "write_file": FILE, "now": {}}


@dataclass(slots=True)
class Said:
    """What a client is left with: calls as [name, arguments], and which of them were complete."""

    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)


def fold(events: Iterable[Event]) -> Said:
    said = Said()
    for event in events:
        match event:
            case Content(text):
                assert text
                said.content += text
            case Reasoning(text):
                assert text
                said.reasoning += text
            case Unopened():
                said.reasoning, said.content = said.reasoning + said.content, ""
            case CallStart(index, call_id, name):
                assert index == len(said.calls)
                assert call_id
                said.calls.append([name, ""])
            case CallArguments(index, text):
                assert text
                said.calls[index][1] += text
            case CallEnd(index):
                said.whole.append(index)
    return said


def run(parser: Parser, pieces: Iterable[str]) -> Said:
    events = [event for piece in pieces for event in parser.feed(piece)]
    return fold([*events, *parser.finish()])


def check(grammar: Callable[[], Grammar], text: str, said: Said) -> None:
    """As `check_parser`, with a parser of a grammar."""
    check_parser(lambda: Parser(grammar()), text, said)


def check_parser(new: Callable[[], Parser], text: str, said: Said) -> None:
    """The whole text, every cut in two, and byte by byte: all say the same."""
    assert run(new(), [text]) == said
    for at in range(1, len(text)):
        assert run(new(), [text[:at], text[at:]]) == said, (text[:at], text[at:])
    decoder = codecs.getincrementaldecoder("utf-8")()
    assert run(new(), [decoder.decode(bytes([byte])) for byte in text.encode()]) == said


def calls(*named: tuple[str, str], content: str = "", reasoning: str = "") -> Said:
    """Complete calls."""
    return Said(content, reasoning, [list(call) for call in named], list(range(len(named))))
