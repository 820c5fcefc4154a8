"""Feeds a model's output to a parser, cut in every way, and compares the events."""

import codecs
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vram_llm.chat.events import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    Reasoning,
    UnopenedThinking,
)
from vram_llm.chat.reader import ParseFunction, Parser

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
class Parsed:
    """The calls that a client gets, as [name, arguments], and the numbers of the complete ones."""

    content: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)


def fold(events: Iterable[Event]) -> Parsed:
    parsed = Parsed()
    for event in events:
        match event:
            case Content(text):
                assert text
                parsed.content += text
            case Reasoning(text):
                assert text
                parsed.reasoning += text
            case UnopenedThinking():
                parsed.reasoning, parsed.content = parsed.reasoning + parsed.content, ""
            case CallStart(index, call_id, name):
                assert index == len(parsed.calls)
                assert call_id
                parsed.calls.append([name, ""])
            case CallArguments(index, text):
                assert text
                parsed.calls[index][1] += text
            case CallEnd(index):
                parsed.whole.append(index)
    return parsed


def run(parser: Parser, pieces: Iterable[str]) -> Parsed:
    events = [event for piece in pieces for event in parser.feed(piece)]
    return fold([*events, *parser.finish()])


def check(parse: Callable[[], ParseFunction], text: str, parsed: Parsed) -> None:
    """As `check_parser`, with the parser of a parse function."""
    check_parser(lambda: Parser(parse()), text, parsed)


def check_parser(new: Callable[[], Parser], text: str, parsed: Parsed) -> None:
    """The whole text, every cut in two, and byte by byte: all give the same events."""
    assert run(new(), [text]) == parsed
    for at in range(1, len(text)):
        assert run(new(), [text[:at], text[at:]]) == parsed, (text[:at], text[at:])
    decoder = codecs.getincrementaldecoder("utf-8")()
    assert run(new(), [decoder.decode(bytes([byte])) for byte in text.encode()]) == parsed


def calls(*named: tuple[str, str], content: str = "", reasoning: str = "") -> Parsed:
    """Complete calls."""
    return Parsed(content, reasoning, [list(call) for call in named], list(range(len(named))))
