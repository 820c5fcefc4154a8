"""Lines of styled text. The code that prints them decides the look of a style; `plain` drops styles."""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

_FIGURE = re.compile(r"(\d) (?=(?:[KMGT]i?B|tok/s|GB/s|ms|s|layers)\b)")
_COMMAND = re.compile(r"`[^`]+`")
_NO_BREAK = "\u00a0"  # between a figure and its unit
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
FULL, EMPTY = "▇", "·"
_TIGHT = 0.9  # of a budget; a bar that is fuller is drawn in another colour


class Style(StrEnum):
    """The kind of a piece of text."""

    PLAIN = "plain"
    STRONG = "strong"
    DIM = "dim"
    GOOD = "good"
    TIGHT = "tight"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Span:
    """Text of one style."""

    text: str
    style: Style = Style.PLAIN


Line = tuple[Span, ...]


def line(text: str = "", style: Style = Style.PLAIN) -> Line:
    """A line of one style."""
    return (Span(text, style),) if text else ()


def plain(lines: Iterable[Line]) -> str:
    """The lines without their styles, without spaces at their ends."""
    return "\n".join(text_of(spans).rstrip() for spans in lines)


def text_of(spans: Line) -> str:
    """A line without its styles."""
    return "".join(span.text for span in spans)


def wrap(text: str, width: int, style: Style = Style.PLAIN, indent: str = "") -> list[Line]:
    """`text` in lines of at most `width`, the first without `indent`. Flags and `commands` stay whole."""
    joined = _FIGURE.sub(f"\\1{_NO_BREAK}", printable(text))
    joined = _COMMAND.sub(lambda found: _whole(found[0], width - len(indent) - 1), joined)
    pieces = textwrap.wrap(
        joined, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [line(piece.replace(_NO_BREAK, " "), style) for piece in pieces]


def _whole(command: str, width: int) -> str:
    """A command without places to break it, if it fits on a line."""
    return command.replace(" ", _NO_BREAK) if len(command) <= width else command


def printable(text: str) -> str:
    """`text` without control characters, which names from model files could carry into a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "?" for char in text)


def escaped(text: str) -> str:
    """`text` without control characters but line ends and tabs, for terminals and logs: "?" in their place.

    Marks that change the direction of writing count among them.
    """
    return _CONTROL.sub("?", text)


def shorten(text: str, width: int) -> str:
    """`text`, cut with an ellipsis if it is longer than `width`."""
    return text if len(text) <= width else text[: max(width - 1, 0)].rstrip() + "…"


def bar(share: float, width: int) -> Line:
    """A bar of `width` characters; not empty for any share above 0, not full below 1."""
    filled = min(round(share * width), width)
    if 0 < share < 1:
        filled = min(max(filled, 1), max(width - 1, 1))
    style = Style.BAD if share > 1 else Style.TIGHT if share > _TIGHT else Style.GOOD
    return (Span(FULL * filled, style), Span(EMPTY * (width - filled), Style.DIM))
