"""The base of every parser: text that comes in pieces, and events that go out.

A parse function is a generator over a Reader. It asks for text with `yield from`, and is suspended until the
text decides how to go on. Decisions depend on the text alone, never on how it was cut, so the joined events
are the same for any cut.
"""

from collections.abc import Callable, Generator, Iterable
from secrets import token_hex
from typing import Protocol, TypeVar

from vram_llm.chat.events import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    Reasoning,
    UnopenedThinking,
)
from vram_llm.chat.json_scan import JsonScan
from vram_llm.text.overlap import overlap

_T = TypeVar("_T")
Wait = Generator[None, None, _T]
SPACE = " \t\r\n"
MAX_NAME = 256  # characters of a name, a header or a key; a longer text is no tool call


def call_id() -> str:
    """A tool call's id in OpenAI's form."""
    return f"call_{token_hex(12)}"


class Frame(Protocol):
    """Texts around content that may also come in it: thinking, and marks of the answer."""

    thinks: bool

    def until(self, markers: tuple[str, ...]) -> Wait[str]:
        """Like `Reader.until` to `Reader.content`."""

    def called(self) -> None:
        """A call begins."""


class Reader:
    """Text in, events out. `ended`: no more text will come. `frame`: separates thinking from content.

    Methods: a parser looks at text, waits for it and takes it by these, and each kind of event has its own.
    """

    def __init__(self, new_id: Callable[[], str] = call_id) -> None:
        self.ended = False
        self.calls = 0
        self.frame: Frame | None = None
        self._new_id = new_id
        self._text = ""
        self._at = 0
        self._mark: int | None = None
        self._out: list[Event] = []
        self._held = ""  # spaces at the end of the content, or of the reasoning, not written yet
        self._fresh = False  # the next content begins without its spaces
        self._in_reasoning = False
        self._gap = ""  # spaces of the content before thinking that interrupts it
        self._has_content = self._has_thought = False

    def add(self, text: str) -> None:
        """Add text. Text that was read is dropped, unless `back` may need it again."""
        start = self._at if self._mark is None else self._mark
        self._text = self._text[start:] + text
        self._at -= start
        self._mark = None if self._mark is None else 0

    def take_events(self) -> list[Event]:
        """The events since the last call."""
        out, self._out = self._out, []
        return out

    # -- reading ---------------------------------------------------------------------------------

    def mark(self) -> None:
        """`back` returns here, until `commit` or the beginning of a call."""
        self._mark = self._at

    def mark_before(self, text: str) -> None:
        """`back` returns to the place before `text`, which was just read."""
        self._mark = self._at - len(text)

    def commit(self) -> None:
        """Drop the mark: `back` is not possible any more."""
        self._mark = None

    def back(self) -> None:
        """Read again from the mark."""
        assert self._mark is not None
        self._at, self._mark = self._mark, None

    def peek(self) -> Wait[str]:
        """The next character; "" at the end."""
        while self._at == len(self._text):
            if self.ended:
                return ""
            yield
        return self._text[self._at]

    def spaces(self) -> Wait[str]:
        """Skip white space and return the character after it."""
        while (char := (yield from self.peek())) and char in SPACE:
            self._at += 1
        return char

    def take(self, wanted: str) -> Wait[bool]:
        """Whether `wanted` comes next; it is skipped if it does."""
        while len(self._text) - self._at < len(wanted):
            if self.ended or not wanted.startswith(self._text[self._at :]):
                return False
            yield
        if not self._text.startswith(wanted, self._at):
            return False
        self._at += len(wanted)
        return True

    def take_after_spaces(self, wanted: str) -> Wait[bool]:
        """Skip white space, then `wanted` if it comes next. Returns whether it came."""
        yield from self.spaces()
        return (yield from self.take(wanted))

    def comes(self, wanted: str) -> Wait[bool]:
        """Whether `wanted` comes next; it is not read."""
        is_next = yield from self.take(wanted)
        if is_next:
            self._at -= len(wanted)
        return is_next

    def until(self, *markers: str, to: Callable[[str], None]) -> Wait[str]:
        """Pass text to `to` up to the first marker, and skip the marker. Returns it; "" if none came.

        No marker may begin within another.
        """
        if self.frame is not None and to == self.content:
            return (yield from self.frame.until(markers))
        firsts = {marker[0] for marker in markers}
        while True:
            if not any(first in self._text for first in firsts):  # nearly all texts
                to(self._text[self._at :])
                self._at = len(self._text)
                if self.ended:
                    return ""
                yield
                continue
            matches = [(at, m) for m in markers if (at := self._text.find(m, self._at)) >= 0]
            if matches:
                at, marker = min(matches)
                to(self._text[self._at : at])
                self._at = at + len(marker)
                return marker
            undecided = (
                0 if self.ended else max((overlap(self._text, m, self._at) for m in markers), default=0)
            )
            end = len(self._text) - undecided
            to(self._text[self._at : end])
            self._at = end
            if self.ended:
                return ""
            yield

    def rest(self, to: Callable[[str], None]) -> Wait[None]:
        """Pass all text that is still to come to `to`."""
        if self.frame is not None and to == self.content:
            while (yield from self.frame.until(())):
                pass
            return
        while (yield from self.peek()):
            text, self._at = self._text[self._at :], len(self._text)
            to(text)

    def short(self, *markers: str) -> Wait[tuple[str, str] | None]:
        """At most MAX_NAME characters and the marker after them, skipped; None if no marker comes."""
        while True:
            matches = [(at, m) for m in markers if (at := self._text.find(m, self._at)) >= 0]
            if matches:
                at, marker = min(matches)
                text = self._text[self._at : at]
                if len(text) > MAX_NAME:
                    return None
                self._at = at + len(marker)
                return text, marker
            if self.ended or len(self._text) - self._at > MAX_NAME + max(map(len, markers)):
                return None
            yield

    def word(self) -> Wait[str]:
        """A number, true, false or null inside a JSON object. The character after it is not read."""
        word = ""
        while (char := (yield from self.peek())) and char not in SPACE + ",]}" and len(word) < MAX_NAME:
            word += char
            self._at += 1
        return word

    def json(self, to: Callable[[str], None]) -> Wait[bool]:
        """Skip spaces, pass one JSON object, array or string to `to`, and return whether it was complete.

        The character that breaks it is not read.
        """
        yield from self.spaces()
        scan = JsonScan()
        while True:
            end = scan.feed(self._text, self._at)
            to(self._text[self._at : end])
            self._at = end
            if scan.done or scan.broken or self.ended:
                return scan.done
            yield

    # -- writing ---------------------------------------------------------------------------------

    def content(self, text: str) -> None:
        """Text for the person. Spaces next to reasoning and calls belong to the format."""
        self._write(text, reasoning=self.frame is not None and self.frame.thinks)

    def reasoning(self, text: str) -> None:
        """Text of the thinking."""
        self._write(text, reasoning=True)

    def _write(self, text: str, *, reasoning: bool) -> None:
        if reasoning != self._in_reasoning:
            if reasoning:
                self._gap = self._held if self._has_content else ""
                self._held = "\n\n" if self._has_thought else ""
            else:
                self._held = self._gap
            self._in_reasoning, self._fresh = reasoning, True
        if self._fresh:
            text = text.lstrip(SPACE)
        text = self._held + text
        stripped = text.rstrip(SPACE)
        self._held = text[len(stripped) :]
        if stripped:
            self._fresh = False
            self._has_thought = self._has_thought or reasoning
            self._has_content = self._has_content or not reasoning
            self._out.append(Reasoning(stripped) if reasoning else Content(stripped))

    def edge(self) -> None:
        """A mark that begins or ends the answer. Spaces next to it belong to the format."""
        self._held, self._gap, self._fresh = "", "", True

    def thought(self) -> None:
        """A piece of thinking is complete: a blank line separates the next piece."""
        if self._in_reasoning and self._has_thought:
            self._held = "\n\n"

    def unopened(self) -> None:
        """The content so far was thinking."""
        self.edge()
        self._has_content, self._has_thought = False, True
        self._out.append(UnopenedThinking())

    def start_call(self, name: str) -> None:
        """A call begins."""
        if self.frame is not None:
            self.frame.called()
        self.commit()
        self.edge()
        self._out.append(CallStart(self.calls, self._new_id(), name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """A piece of the arguments of the last call."""
        if text:
            self._out.append(CallArguments(self.calls - 1, text))

    def end_call(self) -> None:
        """The last call is complete."""
        self._out.append(CallEnd(self.calls - 1))

    def close(self) -> None:
        """Write the spaces held back at the end: an answer without calls keeps its last spaces."""
        held, self._held = self._held, ""
        if held and not self.calls and not self._in_reasoning:
            self._out.append(Content(held))


ParseFunction = Callable[[Reader], Wait[None]]


class Parser:
    """Runs a parse function over text as it comes in."""

    def __init__(self, parse: ParseFunction, new_id: Callable[[], str] = call_id) -> None:
        self._reader = Reader(new_id)
        self._steps = parse(self._reader)

    def feed(self, text: str) -> list[Event]:
        """The events that are decided after `text`."""
        self._reader.add(text)
        next(self._steps, None)
        return joined(self._reader.take_events())

    def finish(self) -> list[Event]:
        """The last events. Do not feed after this."""
        self._reader.ended = True
        next(self._steps, None)
        self._reader.close()
        return joined(self._reader.take_events())


def joined(events: Iterable[Event]) -> list[Event]:
    """The same events, with neighbours of one kind joined."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, Content) and isinstance(last, Content):
            out[-1] = Content(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            out[-1] = Reasoning(last.text + event.text)
        elif (
            isinstance(event, CallArguments) and isinstance(last, CallArguments) and event.index == last.index
        ):
            out[-1] = CallArguments(event.index, last.text + event.text)
        else:
            out.append(event)
    return out
