"""Long texts are cut where that changes no token, so that they take linear time and can be cancelled.

Two parts of llama-vocab.cpp take quadratic time. tokenizer_st_partition walks over all earlier parts of a
text at each special token. llm_tokenizer_spm_session::resegment copies all earlier tokens at each byte of a
character that is not in the vocabulary: a megabyte of newlines takes a minute with Llama 2's.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from vram_llm.llama.vocab import Special, Vocab

PIECE_CHARS = 1 << 13
_LOOK_CHARS = 1 << 10  # after PIECE_CHARS, in which a special token is looked for to cut at
_SPM = 1  # llama_vocab_type of llama.h
_SPACES = " \t\n\v\f\r"  # those of C's isspace
_ESCAPED_SPACE = "▁"
_BEFORE = "\x02"  # SentencePiece puts a space before a text; this character takes it


class Piece(NamedTuple):
    """Characters `start` to `end` of a text. `continues`: no space may be put before it."""

    start: int
    end: int
    continues: bool


class TextPieces:
    """Cuts texts where no token changes. `parse_special` is the option of llama_tokenize.

    A text may be cut after a special token that no other one can overlap: llama.cpp tokenizes what is between
    special tokens apart. SentencePiece merges only into tokens, so a text may also be cut between two
    characters that are next to each other in no token. White space at a special token may be stripped and is
    not cut.
    """

    def __init__(self, vocab: Vocab, *, parse_special: bool) -> None:
        self._vocab = vocab
        self._specials = {s.text: s for s in vocab.specials if parse_special or not s.is_control}

    def __call__(self, text: str) -> Iterator[Piece]:
        """The pieces of `text`, which has no surrogates, in order."""
        start, continues, search = 0, False, PIECE_CHARS
        run = _SpaceRun(text)
        while search < len(text):
            cut, joins = self._after_special(text, search), False
            if cut is None and self._merging is not None:
                cut, joins = self._between(text, search, run, self._merging), True
            if cut is None:
                search += PIECE_CHARS
                continue
            yield Piece(start, cut, continues)
            start, continues, search = cut, joins, cut + PIECE_CHARS
        yield Piece(start, len(text), continues)

    def _after_special(self, text: str, start: int) -> int | None:
        """The first cut after a special token near `start`."""
        for i in range(start, min(start + _LOOK_CHARS, len(text))):
            special = self._ending_at(text, i)
            if special is None or (text[i] in _SPACES and special.strips_right):
                continue
            begin = i - len(special.text)
            if not self._may_overlap(text, i) and not self._may_overlap(text, begin):
                return i
        return None

    def _between(self, text: str, start: int, run: "_SpaceRun", merging: frozenset[str]) -> int | None:
        """The first cut between two characters that do not merge, from `start` on."""
        i, end = start, min(start + PIECE_CHARS, len(text))
        while i < end:
            if text[i - 1 : i + 1].replace(" ", _ESCAPED_SPACE) in merging:
                i += 1
            elif self._is_clear_of_specials(text, i, run):
                return i
            else:
                i = max(run.around(i)[1], i) + 1
        return None

    def _is_clear_of_specials(self, text: str, i: int, run: "_SpaceRun") -> bool:
        """Whether the white space around `i`, if any, and `i` itself are at no special token."""
        begin, end = run.around(i)
        if self._strips_within and begin < end:
            return False
        if self._ending_at(text, begin) is not None or self._ending_at(text, i) is not None:
            return False
        return begin == end or not any(text.startswith(s, end) for s in self._stripping_left)

    def _ending_at(self, text: str, i: int) -> Special | None:
        """The longest special token that ends before character `i`."""
        for n in self._lengths:
            if n <= i and (special := self._specials.get(text[i - n : i])) is not None:
                return special
        return None

    def _may_overlap(self, text: str, i: int) -> bool:
        """Whether a special token may have characters before and after `i`."""
        return 0 < i < len(text) and text[i - 1 : i + 1] in self._pairs

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted({len(text) for text in self._specials}, reverse=True)

    @cached_property
    def _pairs(self) -> frozenset[str]:
        return frozenset(text[i : i + 2] for text in self._specials for i in range(len(text) - 1))

    @cached_property
    def _stripping_left(self) -> list[str]:
        return [text for text, special in self._specials.items() if special.strips_left]

    @cached_property
    def _strips_within(self) -> bool:
        """Whether a special token may strip white space in the middle of a run, being white space itself."""
        return any(
            (s.strips_right and s.text[-1] in _SPACES) or (s.strips_left and s.text[0] in _SPACES)
            for s in self._specials.values()
        )

    @cached_property
    def _merging(self) -> frozenset[str] | None:
        """All pairs of characters within tokens; None if the vocabulary is not SentencePiece's."""
        if self._vocab.kind != _SPM:
            return None
        pairs: set[str] = set()
        for token in range(self._vocab.n_tokens):
            name = self._vocab.name(token).decode("utf-8", "replace").replace(" ", _ESCAPED_SPACE)
            pairs.update(name[i : i + 2] for i in range(len(name) - 1))
        return None if any(_BEFORE in pair for pair in pairs) else frozenset(pairs)


class _SpaceRun:
    """The white space around a place of a text, for places in ascending order."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._space = re.compile(f"[{_SPACES}]*")
        self._begin = self._end = 0

    def around(self, i: int) -> tuple[int, int]:
        """The bounds of the run that touches `i`; both are `i` if there is none."""
        if not self._begin <= i <= self._end:
            known = self._end
            self._begin = known + len(self._text[known:i].rstrip(_SPACES))
            found = self._space.match(self._text, i)
            assert found is not None
            self._end = found.end()
        return self._begin, self._end


def tokenize_piece(vocab: Vocab, text: str, piece: Piece, *, parse_special: bool) -> list[int]:
    """The tokens of a piece of `text`, without those that begin and end a text."""
    part = text[piece.start : piece.end]
    if not piece.continues:
        return vocab.tokenize(part, add_special=False, parse_special=parse_special)
    n_before = len(vocab.tokenize(_BEFORE, add_special=False, parse_special=parse_special))
    tokens = vocab.tokenize(_BEFORE + part, add_special=False, parse_special=parse_special)
    return tokens[n_before:]
