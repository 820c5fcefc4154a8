"""Thinking between marks: before an answer in any format, between calls, or opened by the prompt."""

import re
from dataclasses import dataclass

from vram_llm.chat.reader import SPACE, Grammar, Reader, Wait

MARK = re.compile(r"<[^<>\s][^<>]*>|\[/?[A-Z][A-Z _]*\]")  # the form of special tokens and tags
_MAX_LINE = 1024  # characters kept of one: its beginning and its end matter
_QUOTES = ("`", '"', "'", "(", "\\", "\u201c", "\u2018", "\u00ab")
_TAG = re.compile(r"</?\w[\w:.-]*>")  # a mark that people write as well, when they speak of it


@dataclass(frozen=True, slots=True)
class Thinking:
    """What a model writes around its thinking and its answer.

    `opening` is "" for thinking that begins without a mark. `closes` is the text, white space included, from
    the end of the thinking to the answer. `skips` is the text with which a prompt passes thinking over.
    `answer` and `end` are marks around the answer, and `header` the one of a message that has it. `field` is
    where the template reads earlier thinking in a message: a name, "content" for a part of the content, or ""
    for nowhere.
    """

    opening: str
    closing: str
    closes: str
    skips: str = ""
    answer: str = ""
    end: str = ""
    header: str = ""
    field: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """All that may be special tokens."""
        texts = (self.opening, self.closing, self.answer, self.end, self.header)
        return tuple(dict.fromkeys(mark for text in texts if text for mark in (text, *MARK.findall(text))))

    def is_opened(self, prompt: str) -> bool:
        """Whether an answer to `prompt` begins within the thinking."""
        end = prompt.rstrip()
        return end.endswith(self.opening) if self.opening else not self.is_closed(prompt)

    def is_closed(self, prompt: str) -> bool:
        """Whether `prompt` has closed the thinking, or begun the answer."""
        end = prompt.rstrip()
        return end.endswith(self.closing) or self._has_begun(end)

    def closed(self, prompt: str) -> str:
        """`prompt` with the answer itself begun."""
        if self.is_opened(prompt):
            return prompt + self.closes
        if not self.is_closed(prompt):
            return prompt + (self.skips or self.opening + self.closes)
        return prompt if self._has_begun(prompt.rstrip()) else prompt + self.answer

    def _has_begun(self, prompt: str) -> bool:
        return bool(self.answer) and prompt.endswith(self.answer)


DEFAULT = Thinking("<think>", "</think>", "\n</think>\n\n", "<think>\n\n</think>\n\n")


def plain(r: Reader) -> Wait[None]:
    """All of it is the answer."""
    yield from r.rest(r.content)


def thinking(opening: str, closing: str, then: Grammar, *, opened: bool) -> Grammar:
    """`framed` by a pair of marks; `opened`: the prompt has ended with the opening one."""
    return framed(Thinking(opening, closing, closing), then, opened=opened)


def framed(marks: Thinking, then: Grammar, *, opened: bool, closed: bool = False) -> Grammar:
    """`then`, with the thinking kept apart wherever it reads content. Marks of the frame are dropped.

    `opened`: the answer begins within the thinking; `closed`: the prompt has passed it over. Thinking that is
    never closed is thinking to its end, unless a call comes in it. An answer speaks of a tag such as <think>
    where it is quoted, in code, or opens amid content and is not closed.
    """

    def grammar(r: Reader) -> Wait[None]:
        frame = _Frame(r, marks, closed=closed)
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


class _Frame:
    """Where an answer stands: in the thinking, in the answer, or past its end."""

    def __init__(self, reader: Reader, marks: Thinking, *, closed: bool) -> None:
        self._reader = reader
        self._marks = marks
        watched = (marks.opening, marks.closing, marks.answer, marks.end, marks.header)
        self._watched = tuple(dict.fromkeys(filter(None, watched)))
        begins = (mark for mark in (marks.answer, marks.header) if mark and not _TAG.fullmatch(mark))
        self._closers = (marks.closing, *begins)  # an answer that begins has closed the thinking as well
        self._closed = closed  # no thinking may have gone before unmarked
        self._is_wrapped = False
        self._is_over = False
        self._line = ""  # of the content, as far as it has come
        self._has_content = False  # since the last thinking or call
        self._in_code = False
        self.thinks = False

    def lead(self, opened: bool, calls: tuple[str, ...]) -> Wait[None]:
        """The thinking before the answer, and the marks between them."""
        r = self._reader
        opening = self._marks.opening
        while True:
            r.mark()
            yield from r.spaces()
            is_written = bool(opening) and (yield from r.take(opening))
            if not (is_written or opened):
                r.back()
                return
            r.commit()
            self.thinks, opened = True, False
            yield from self._thought(calls)
            if self.thinks:
                return

    def until(self, markers: tuple[str, ...]) -> Wait[str]:
        """Content up to one of `markers`, which is passed over; "" where none comes."""
        while True:
            if self.thinks:
                found = yield from self._thought(markers)
                if self.thinks:
                    yield from self._reader.take(found)
                    return found
            found = yield from self._reader.until(*markers, *self._watched, to=self._say)
            if not found or found in markers:
                return found
            if found == self._marks.opening:
                yield from self._open()
            else:
                self._meet(found)

    def called(self) -> None:
        """A call has begun: thinking that was not closed is over."""
        self._close()

    def _open(self) -> Wait[None]:
        """After the opening mark: thinking begins, or the answer speaks of the mark."""
        mark, r = self._marks.opening, self._reader
        if MARK.search(mark) is None or self._is_quoted(mark):
            self._say(mark)
        elif not self._has_content or not _TAG.fullmatch(mark):
            self.thinks = True
        else:
            r.mark()
            held: list[str] = []
            if (yield from r.until(self._marks.closing, to=held.append)):
                r.commit()
                r.reasoning("".join(held))
                self._close()
            else:
                r.back()
                self._say(mark)

    def _thought(self, markers: tuple[str, ...]) -> Wait[str]:
        """The thinking. Where it is not closed: the first of `markers` in it, not passed over, or ""."""
        r, closers = self._reader, self._closers
        found = yield from r.until(*closers, *markers, to=r.reasoning)
        if found in markers and found not in closers:
            r.mark_before(found)
            held: list[str] = []
            closed = yield from r.until(*closers, to=held.append)
            if not closed:
                r.back()
                return found
            r.commit()
            r.reasoning(found + "".join(held))
            found = closed
        if found:
            self._close()
            if found != self._marks.closing:
                self._meet(found)
        return ""

    def _close(self) -> None:
        if self.thinks:
            self._reader.thought()
        self.thinks, self._is_wrapped, self._is_over = False, False, False
        self._has_content, self._closed = False, True
        self._line = ""

    def _meet(self, mark: str) -> None:
        """A mark that closes thinking, or begins or ends the answer."""
        marks, is_tag = self._marks, _TAG.fullmatch(mark) is not None
        if mark == marks.answer and not (is_tag and self._has_content):
            self._is_wrapped, self._is_over = True, False
            self._reader.edge()
        elif mark == marks.header:
            self._reader.edge()
        elif (mark == marks.end and not is_tag) or (mark in (marks.end, marks.closing) and self._is_wrapped):
            self._is_over = True
            self._reader.edge()
        elif mark == marks.closing and not self._is_quoted(mark):
            if not self._has_content:
                self._reader.edge()
            elif not self._closed:
                self._reader.unopened()
            self._close()
        else:
            self._say(mark)

    def _is_quoted(self, mark: str) -> bool:
        """Whether the answer speaks of a tag, as of any text in code or quotes."""
        return bool(_TAG.fullmatch(mark)) and (self._in_code or self._line.endswith(_QUOTES))

    def _say(self, text: str) -> None:
        if self._is_over:
            return
        self._line += text
        if "\n" in text:
            *lines, self._line = self._line.split("\n")
            for line in lines:
                self._in_code ^= line.lstrip(SPACE).startswith("```")
        if len(self._line) > _MAX_LINE:
            self._line = self._line[:3] + self._line[-_MAX_LINE // 2 :]
        self._has_content = self._has_content or bool(text.strip(SPACE))
        self._reader.content(text)
