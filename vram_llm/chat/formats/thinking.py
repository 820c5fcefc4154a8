"""Thinking between marks: before an answer in any format, between calls, or opened by the prompt."""

from vram_llm.chat.formats.thinking_frame import ThinkingFrame
from vram_llm.chat.formats.thinking_marks import DEFAULT, ThinkingMarks
from vram_llm.chat.reader import ParseFunction, Reader, Wait


def plain(r: Reader) -> Wait[None]:
    """The whole text is the answer."""
    yield from r.rest(r.content)


def thinking(opening: str, closing: str, then: ParseFunction, *, opened: bool) -> ParseFunction:
    """`separate_thinking` by a pair of marks; `opened`: the prompt has ended with the opening one."""
    return separate_thinking(ThinkingMarks(opening, closing, closing), then, opened=opened)


def separate_thinking(
    marks: ThinkingMarks, then: ParseFunction, *, opened: bool, closed: bool = False
) -> ParseFunction:
    """`then`, with thinking kept apart wherever it reads content. Marks of the frame are dropped.

    `opened`: the answer begins within the thinking. `closed`: the prompt has skipped the thinking. Thinking
    that is never closed is thinking to its end, unless a call comes in it. A tag such as <think> is part of
    the answer if it is quoted, in code, or opens amid content and is not closed.
    """

    def parse(r: Reader) -> Wait[None]:
        frame = ThinkingFrame(r, marks, closed=closed)
        yield from frame.lead(opened, _call_markers(then))
        r.frame = frame
        yield from then(r)

    return parse


def _call_markers(parse: ParseFunction) -> tuple[str, ...]:
    """The marks that a parse function looks for in content: each may begin a call."""
    r = Reader()
    r.ended = True
    r.frame = probe = _MarkerProbe()
    next(parse(r), None)
    return probe.markers


class _MarkerProbe:
    """A frame without text that records the markers looked for."""

    thinks = False

    def __init__(self) -> None:
        self.markers: tuple[str, ...] = ()

    def until(self, markers: tuple[str, ...]) -> Wait[str]:
        """No text comes."""
        self.markers = markers
        yield from ()
        return ""

    def called(self) -> None:
        """No call begins."""


def separate_leading_thinking(then: ParseFunction) -> ParseFunction:
    """`then`, after <think> ... </think> at the beginning, for a model that is not known to think."""

    def parse(r: Reader) -> Wait[None]:
        r.mark()
        yield from r.spaces()
        if (yield from r.take(DEFAULT.opening)):
            r.commit()
            yield from r.until(DEFAULT.closing, to=r.reasoning)
        else:
            r.back()
        yield from then(r)

    return parse
