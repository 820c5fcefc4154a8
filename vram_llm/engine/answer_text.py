"""The text of an answer, which may end by its lines: llama-server's `n_indent` and `t_max_predict_ms`."""

import time
from collections.abc import Callable
from typing import Any

from vram_llm.engine.request import Request
from vram_llm.llama.vocab import TextStream, Vocab


class LineLimitedText(TextStream):
    """Text that also ends by its lines: see `Request`. `stop` is None then.

    Both rules as in llama-server (server-context.cpp, process_token): the text is cut after the spaces of a
    line with too few of them, also of an empty one, and after the token whose line end is too late.
    """

    def __init__(
        self,
        vocab: Vocab,
        stop: tuple[str, ...],
        *,
        n_indent: int,
        time_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        """`options` are TextStream's."""
        super().__init__(vocab, stop, **options)
        self._n_indent = n_indent
        self._time_s = time_s
        self._clock = clock
        self._began: float | None = None  # when the first token came
        self._n_spaces: int | None = None  # of the line so far; None: after them, or in the first line
        self._is_cut = False

    @property
    def stopped(self) -> bool:
        """Whether the text has ended, by a stop string or by a line."""
        return self._is_cut or super().stopped

    @property
    def is_plain(self) -> bool:
        """False: each token's text is looked at."""
        return False

    def push(self, token: int) -> str:
        """The text that became final with this token."""
        if self._began is None:
            self._began = self._clock()
        return "" if self._is_cut else self._limited(super().push(token))

    def finish(self) -> str:
        """The text held back, at the end of a generation."""
        return "" if self._is_cut else self._limited(super().finish())

    def _limited(self, text: str) -> str:
        if self._n_indent and (end := self._end_of_indent(text)) is not None:
            self._is_cut = True
            return text[:end]
        if self._time_s is not None and "\n" in text and self._began is not None:
            self._is_cut = self._clock() - self._began > self._time_s
        return text

    def _end_of_indent(self, text: str) -> int | None:
        """Where the first line with too few spaces goes on after them; None: there is none yet."""
        for i, character in enumerate(text):
            if self._n_spaces is not None:
                if character in " \t":
                    self._n_spaces += 1
                    continue
                if self._n_spaces < self._n_indent:
                    return i
                self._n_spaces = None
            if character == "\n":
                self._n_spaces = 0
        return None


def answer_text(vocab: Vocab, request: Request) -> TextStream:
    """The text of a request's answer, which is empty."""
    options: dict[str, Any] = {
        "show_special": not request.skip_special_tokens,
        "marks": vocab.marks(request.marks),
    }
    if request.n_indent or request.line_time_s is not None:
        return LineLimitedText(
            vocab, request.stop, n_indent=request.n_indent, time_s=request.line_time_s, **options
        )
    return TextStream(vocab, request.stop, **options)
