"""The position in an answer while it is read: in the thinking, in the answer, or after its end."""

from vram_llm.chat.formats.thinking_marks import MARK, TAG, ThinkingMarks
from vram_llm.chat.reader import SPACE, Reader, Wait

_MAX_LINE = 1024  # characters kept of a line: its beginning and its end matter
_QUOTES = ("`", '"', "'", "(", "\\", "\u201c", "\u2018", "\u00ab")


class ThinkingFrame:
    """The position in an answer: in the thinking, in the answer, or after its end."""

    def __init__(self, reader: Reader, marks: ThinkingMarks, *, closed: bool) -> None:
        self._reader = reader
        self._marks = marks
        others = tuple(filter(None, (marks.closing, marks.answer, marks.end, marks.header)))
        self._opens, self._named = _parted(marks.opening, others)
        self._watched = tuple(dict.fromkeys((*filter(None, (self._opens,)), *others)))
        begins = (mark for mark in (marks.answer, marks.header) if mark and not TAG.fullmatch(mark))
        self._closers = (marks.closing, *begins)  # a mark that begins the answer also closes the thinking
        self._closed = closed  # no unmarked thinking can have come before
        self._is_wrapped = False
        self._is_over = False
        self._line = ""  # the current line of the content, so far
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
        """Content up to one of `markers`, which is skipped; "" if none comes."""
        while True:
            if self.thinks:
                marker = yield from self._thought(markers)
                if self.thinks:
                    yield from self._reader.take(marker)
                    return marker
            marker = yield from self._reader.until(*markers, *self._watched, to=self._write)
            if not marker or marker in markers:
                return marker
            if marker == self._opens:
                if (yield from self._reader.take(self._named)):
                    yield from self._open()
            else:
                self._meet(marker)

    def called(self) -> None:
        """A call has begun: thinking that was not closed is over."""
        self._close()

    def _open(self) -> Wait[None]:
        """After the opening mark: thinking begins, or the mark is part of the answer."""
        mark, r = self._marks.opening, self._reader
        if MARK.search(mark) is None or self._is_quoted(mark):
            self._write(mark)
        elif not self._has_content or not TAG.fullmatch(mark):
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
                self._write(mark)

    def _thought(self, markers: tuple[str, ...]) -> Wait[str]:
        """Thinking. If it is not closed: the first of `markers` in it, not skipped, or ""."""
        r, closers = self._reader, self._closers
        marker = yield from r.until(*closers, *markers, to=r.reasoning)
        if marker in markers and marker not in closers:
            r.mark_before(marker)
            held: list[str] = []
            closed = yield from r.until(*closers, to=held.append)
            if not closed:
                r.back()
                return marker
            r.commit()
            r.reasoning(marker + "".join(held))
            marker = closed
        if marker:
            self._close()
            if marker != self._marks.closing:
                self._meet(marker)
        return ""

    def _close(self) -> None:
        if self.thinks:
            self._reader.thought()
        self.thinks, self._is_wrapped, self._is_over = False, False, False
        self._has_content, self._closed = False, True
        self._line = ""

    def _meet(self, mark: str) -> None:
        """A mark that closes thinking, or begins or ends the answer."""
        marks, is_tag = self._marks, TAG.fullmatch(mark) is not None
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
            self._write(mark)

    def _is_quoted(self, mark: str) -> bool:
        """Whether a tag is part of the answer, as text in code or quotes."""
        return bool(TAG.fullmatch(mark)) and (self._in_code or self._line.endswith(_QUOTES))

    def _write(self, text: str) -> None:
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


def _parted(opening: str, others: tuple[str, ...]) -> tuple[str, str]:
    """The special token and the name of an opening mark, unless the token begins another mark.

    The token alone is not text: <|channel>, which Gemma 4 may write twice.
    """
    mark = MARK.match(opening)
    if mark is None or TAG.fullmatch(mark[0]) or any(other.startswith(mark[0]) for other in others):
        return opening, ""
    return mark[0], opening[mark.end() :]
