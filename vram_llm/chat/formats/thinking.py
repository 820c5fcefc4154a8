"""Thinking between marks: before an answer in any format, between calls, or opened by the prompt."""

from vram_llm.chat.formats.thinking_frame import ThinkingFrame
from vram_llm.chat.formats.thinking_marks import DEFAULT, ThinkingMarks
from vram_llm.chat.reader import Grammar, Reader, Wait


def plain(r: Reader) -> Wait[None]:
    """All of it is the answer."""
    yield from r.rest(r.content)


def thinking(opening: str, closing: str, then: Grammar, *, opened: bool) -> Grammar:
    """`framed` by a pair of marks; `opened`: the prompt has ended with the opening one."""
    return framed(ThinkingMarks(opening, closing, closing), then, opened=opened)


def framed(marks: ThinkingMarks, then: Grammar, *, opened: bool, closed: bool = False) -> Grammar:
    """`then`, with the thinking kept apart wherever it reads content. Marks of the frame are dropped.

    `opened`: the answer begins within the thinking; `closed`: the prompt has passed it over. Thinking that is
    never closed is thinking to its end, unless a call comes in it. An answer speaks of a tag such as <think>
    where it is quoted, in code, or opens amid content and is not closed.
    """

    def grammar(r: Reader) -> Wait[None]:
        frame = ThinkingFrame(r, marks, closed=closed)
        yield from frame.lead(opened, _call_markers(then))
        r.frame = frame
        yield from then(r)

    return grammar


def _call_markers(grammar: Grammar) -> tuple[str, ...]:
    """What a grammar looks for in content: the marks that may begin a call."""
    r = Reader()
    r.ended = True
    r.frame = asked = _Asked()
    next(grammar(r), None)
    return asked.markers


class _Asked:
    """A frame of no text, which keeps what is looked for."""

    thinks = False

    def __init__(self) -> None:
        self.markers: tuple[str, ...] = ()

    def until(self, markers: tuple[str, ...]) -> Wait[str]:
        """Nothing comes."""
        self.markers = markers
        yield from ()
        return ""

    def called(self) -> None:
        """No call begins."""


def begun(then: Grammar) -> Grammar:
    """`then`, after <think> ... </think> if the answer begins so: of a model not known to think."""

    def grammar(r: Reader) -> Wait[None]:
        r.mark()
        yield from r.spaces()
        if (yield from r.take(DEFAULT.opening)):
            r.commit()
            yield from r.until(DEFAULT.closing, to=r.reasoning)
        else:
            r.back()
        yield from then(r)

    return grammar
