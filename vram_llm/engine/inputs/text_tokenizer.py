"""Tokenizes texts of any length, piece by piece, in threads that look at cancellation."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

from vram_llm.engine.inputs.text_pieces import TextPieces, tokenize_piece
from vram_llm.errors import RequestError
from vram_llm.llama.vocab import Vocab

T = TypeVar("T")
_SHORT_CHARS = 1 << 11  # of texts that are tokenized at once: less than a millisecond
_STACK_BYTES = 1 << 28  # virtual memory
_RUN_CHARS = 1 << 16
_RUN = re.compile(r"[^\W\d_]+|\d+|\s+|[^\w\s]+")
_SPM = 1  # llama_vocab_type of llama.h
_NICE = 5  # streams go first


class Cancellation:
    """Set `is_requested` to end work in another thread."""

    is_requested = False

    def check(self) -> None:
        """Raises CancelledError if it is requested."""
        if self.is_requested:
            raise CancelledError


class Job(NamedTuple, Generic[T]):
    """Work in another thread. Its future raises RequestError, and CancelledError after `cancel`."""

    future: "Future[T]"
    cancellation: Cancellation

    def cancel(self) -> None:
        """End it soon."""
        self.cancellation.is_requested = True
        self.future.cancel()


class TokenizerThreads:
    """Two threads, so that one long text does not hold up all others. llama_tokenize needs no interpreter."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, "tokenizer", initializer=_after_streams)

    def submit(self, work: Callable[[Cancellation], T], cancellation: Cancellation | None = None) -> Job[T]:
        """Start `work`, which looks at its Cancellation from time to time."""
        cancellation = cancellation or Cancellation()
        return Job(self._threads.submit(work, cancellation), cancellation)


class TextTokenizer:
    """Tokenizes with one vocabulary. Threads may share it."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._pieces = {flag: TextPieces(vocab, parse_special=flag) for flag in (False, True)}

    @staticmethod
    def is_short(*texts: str | None) -> bool:
        """True if all `texts` together are tokenized so fast that the engine's step may do it."""
        return sum(len(text) for text in texts if text is not None) <= _SHORT_CHARS

    def tokens(
        self,
        text: str,
        cancellation: Cancellation,
        *,
        add_special: bool,
        parse_special: bool = True,
        most: int | None = None,
    ) -> list[int]:
        """The tokens of `text`. A long text may end after the piece with which it exceeds `most` tokens.

        Raises RequestError for a run of characters that may overflow llama.cpp's stack, CancelledError.
        """
        vocab = self._vocab
        if self.is_short(text):
            return vocab.tokenize(text, add_special=add_special, parse_special=parse_special)
        text = text.encode("utf-8", "replace").decode()
        self._check_runs(text)
        head, tail = self._frame if add_special else ([], [])
        tokens = list(head)
        for piece in self._pieces[parse_special](text):
            cancellation.check()
            tokens += tokenize_piece(vocab, text, piece, parse_special=parse_special)
            if most is not None and len(tokens) > most:
                return tokens
        return tokens + tail

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """The tokens that `add_special` puts before and after a text."""
        plain, whole = (self._vocab.tokenize("a", add_special=flag) for flag in (False, True))
        n = len(plain)
        start = next(i for i in range(len(whole) - n + 1) if whole[i : i + n] == plain)
        return whole[:start], whole[start + n :]

    def _check_runs(self, text: str) -> None:
        """Raises RequestError for a run of 128 Ki letters, digits, spaces or signs, and some shorter ones.

        unicode_regex_split in llama.cpp calls itself for each character that std::regex matches, with some
        400 bytes of stack each. SentencePiece's vocabularies use no regex.
        """
        if self._vocab.kind == _SPM:
            return
        for start in range(0, len(text) - _RUN_CHARS + 1, _RUN_CHARS):
            end = start + _RUN_CHARS
            if (run := _RUN.match(text, start, end)) is not None and run.end() == end:
                kind = text[start] if text[start].isprintable() else "white space"
                raise RequestError(
                    f"the text has more than {_RUN_CHARS:,} characters of one kind ('{kind}') in a row; "
                    "llama.cpp's tokenizer may fail on them, so break the run up",
                )


def use_large_stacks() -> None:
    """Let threads that start later have the stack that the longest run of characters takes."""
    with contextlib.suppress(ValueError, RuntimeError):  # a platform with other limits
        threading.stack_size(_STACK_BYTES)


def _after_streams() -> None:
    """Let the threads that compute go first; Linux has priorities for each thread."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
