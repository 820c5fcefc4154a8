"""What every parser is written with: text that is still coming in, and the pieces that go out.

A parser is a generator over a Reader. It asks for text with `yield from`, and is suspended where what has
come in does not decide yet how to go on. Every decision rests on the text alone, never on how it was cut, so
the pieces joined are the same for any cut.
"""

from collections.abc import Callable, Generator, Iterable
from secrets import token_hex
from typing import Protocol, TypeVar

from vram_llm.chat.events import CallArguments, CallEnd, CallStart, Content, Event, Reasoning, Unopened
from vram_llm.chat.json_scan import JsonScan

_T = TypeVar("_T")
Wait = Generator[None, None, _T]
SPACE = " \t\r\n"
MAX_NAME = 256  # characters of a name, a header or a key: more is no tool call


def call_id() -> str:
    """A tool call's id as OpenAI writes it."""
    return f"call_{token_hex(12)}"


class Frame(Protocol):
    """What stands around content, and may come in it: thinking, and marks of the answer."""

    thinks: bool

    def until(self, markers: tuple[str, ...]) -> Wait[str]:
        """As `Reader.until` to `Reader.content`."""

    def called(self) -> None:
        """A call begins."""


class Reader:
    """Text in, pieces out. `ended`: no more text will come. `frame`: what is read apart from the content."""

    def __init__(self, new_id: Callable[[], str] = call_id) -> None:
        self.ended = False
        self.calls = 0
        self.frame: Frame | None = None
        self._new_id = new_id
        self._text = ""
        self._at = 0
        self._mark: int | None = None
        self._out: list[Event] = []
        self._held = ""  # spaces at the end of the content, or of the reasoning
        self._fresh = False  # content that begins now begins without its spaces
        self._in_reasoning = False
        self._gap = ""  # spaces of the content before thinking that interrupts it
        self._has_said = self._has_thought = False

    def add(self, text: str) -> None:
        """Text that came in. What has been read is dropped, as far as `back` may not want it again."""
        start = self._at if self._mark is None else self._mark
        self._text = self._text[start:] + text
        self._at -= start
        self._mark = None if self._mark is None else 0

    def take_events(self) -> list[Event]:
        """The pieces made since the last time."""
        out, self._out = self._out, []
        return out

    # -- reading ---------------------------------------------------------------------------------

    def mark(self) -> None:
        """`back` leads here, until `commit` or the beginning of a call."""
        self._mark = self._at

    def mark_before(self, text: str) -> None:
        """`back` leads before `text`, which has just been passed over."""
        self._mark = self._at - len(text)

    def commit(self) -> None:
        """There is no way back any more."""
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
        """Pass over white space; the character after it."""
        while (char := (yield from self.peek())) and char in SPACE:
            self._at += 1
        return char

    def take(self, wanted: str) -> Wait[bool]:
        """Whether `wanted` comes next; it is passed over if it does."""
        while len(self._text) - self._at < len(wanted):
            if self.ended or not wanted.startswith(self._text[self._at :]):
                return False
            yield
        if not self._text.startswith(wanted, self._at):
            return False
        self._at += len(wanted)
        return True

    def take_after_spaces(self, wanted: str) -> Wait[bool]:
        """Pass over white space, then over `wanted` if it comes next; whether it did."""
        yield from self.spaces()
        return (yield from self.take(wanted))

    def comes(self, wanted: str) -> Wait[bool]:
        """Whether `wanted` comes next; it is not passed over."""
        found = yield from self.take(wanted)
        if found:
            self._at -= len(wanted)
        return found

    def until(self, *markers: str, to: Callable[[str], None]) -> Wait[str]:
        """Give text to `to` up to the first marker, and pass over that; which one, "" where none came.

        No marker may begin within another.
        """
        if self.frame is not None and to == self.content:
            return (yield from self.frame.until(markers))
        firsts = {marker[0] for marker in markers}
        while True:
            if not any(first in self._text for first in firsts):  # as of nearly all texts
                to(self._text[self._at :])
                self._at = len(self._text)
                if self.ended:
                    return ""
                yield
                continue
            found = [(at, m) for m in markers if (at := self._text.find(m, self._at)) >= 0]
            if found:
                at, marker = min(found)
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
        """Give everything that is still to come to `to`."""
        if self.frame is not None and to == self.content:
            while (yield from self.frame.until(())):
                pass
            return
        while (yield from self.peek()):
            text, self._at = self._text[self._at :], len(self._text)
            to(text)

    def short(self, *markers: str) -> Wait[tuple[str, str] | None]:
        """At most MAX_NAME characters and the marker after them, passed over; None where none comes."""
        while True:
            found = [(at, m) for m in markers if (at := self._text.find(m, self._at)) >= 0]
            if found:
                at, marker = min(found)
                text = self._text[self._at : at]
                if len(text) > MAX_NAME:
                    return None
                self._at = at + len(marker)
                return text, marker
            if self.ended or len(self._text) - self._at > MAX_NAME + max(map(len, markers)):
                return None
            yield

    def word(self) -> Wait[str]:
        """A number, true, false or null inside of a JSON object: up to what ends it, which is not read."""
        word = ""
        while (char := (yield from self.peek())) and char not in SPACE + ",]}" and len(word) < MAX_NAME:
            word += char
            self._at += 1
        return word

    def json(self, to: Callable[[str], None]) -> Wait[bool]:
        """Give one JSON object, array or string to `to`, spaces before it dropped; whether it was whole.

        What breaks it is not read.
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
        """Text for the person. Spaces beside reasoning and calls are the format's, not the answer's."""
        self._say(text, reasoning=self.frame is not None and self.frame.thinks)

    def reasoning(self, text: str) -> None:
        """Text of the thinking."""
        self._say(text, reasoning=True)

    def _say(self, text: str, *, reasoning: bool) -> None:
        if reasoning != self._in_reasoning:
            if reasoning:
                self._gap = self._held if self._has_said else ""
                self._held = "\n\n" if self._has_thought else ""
            else:
                self._held = self._gap
            self._in_reasoning, self._fresh = reasoning, True
        if self._fresh:
            text = text.lstrip(SPACE)
        text = self._held + text
        said = text.rstrip(SPACE)
        self._held = text[len(said) :]
        if said:
            self._fresh = False
            self._has_thought = self._has_thought or reasoning
            self._has_said = self._has_said or not reasoning
            self._out.append(Reasoning(said) if reasoning else Content(said))

    def edge(self) -> None:
        """A mark that begins or ends the answer: spaces beside it are the format's."""
        self._held, self._gap, self._fresh = "", "", True

    def thought(self) -> None:
        """A piece of thinking is complete: another one that follows is parted from it."""
        if self._in_reasoning and self._has_thought:
            self._held = "\n\n"

    def unopened(self) -> None:
        """The content so far was thinking."""
        self.edge()
        self._has_said, self._has_thought = False, True
        self._out.append(Unopened())

    def start_call(self, name: str) -> None:
        """A call begins."""
        if self.frame is not None:
            self.frame.called()
        self.commit()
        self.edge()
        self._out.append(CallStart(self.calls, self._new_id(), name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the call begun last."""
        if text:
            self._out.append(CallArguments(self.calls - 1, text))

    def end_call(self) -> None:
        """The call begun last is complete."""
        self._out.append(CallEnd(self.calls - 1))

    def close(self) -> None:
        """What was held back, at the very end: an answer keeps its last spaces where no call was made."""
        held, self._held = self._held, ""
        if held and not self.calls and not self._in_reasoning:
            self._out.append(Content(held))


Grammar = Callable[[Reader], Wait[None]]


class Parser:
    """Runs a grammar over text as it comes in."""

    def __init__(self, grammar: Grammar, new_id: Callable[[], str] = call_id) -> None:
        self._reader = Reader(new_id)
        self._steps = grammar(self._reader)

    def feed(self, text: str) -> list[Event]:
        """The pieces that are decided once `text` has come in."""
        self._reader.add(text)
        next(self._steps, None)
        return joined(self._reader.take_events())

    def finish(self) -> list[Event]:
        """The last pieces. Nothing is fed after this."""
        self._reader.ended = True
        next(self._steps, None)
        self._reader.close()
        return joined(self._reader.take_events())


def joined(events: Iterable[Event]) -> list[Event]:
    """The same pieces, with neighbours of one kind as one."""
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


def overlap(text: str, marker: str, start: int = 0) -> int:
    """Length of the longest end of `text`, from `start` on, that is a beginning of `marker`."""
    at = text.find(marker[0], max(start, len(text) - len(marker) + 1))
    while at >= 0 and not marker.startswith(text[at:]):
        at = text.find(marker[0], at + 1)
    return len(text) - at if at >= 0 else 0
