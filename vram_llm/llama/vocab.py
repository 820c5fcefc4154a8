"""Text to tokens and back, with llama.cpp's vocabulary."""

import codecs
import ctypes
from functools import cached_property
from typing import Any, NamedTuple

from vram_llm.llama.bindings import C
from vram_llm.llama.sampling import DrySampler, SamplerChain
from vram_llm.model.fim_tokens import FimTokens
from vram_llm.text.overlap import overlap

_CONTROL, _UNKNOWN, _USER_DEFINED = 1 << 3, 1 << 0, 1 << 4  # llama_token_attr of llama.h
_LSTRIP, _RSTRIP = 1 << 7, 1 << 8
_BEFORE = "\x02"  # merges with nothing
_Decoder = codecs.getincrementaldecoder("utf-8")


class Special(NamedTuple):
    """A token that llama.cpp looks for in a text before it tokenizes the rest, and its text.

    White space at its sides may become part of it. Control tokens are looked for with `parse_special` alone.
    """

    text: str
    is_control: bool
    strips_left: bool
    strips_right: bool


class Vocab:
    """The vocabulary of a loaded model. Valid as long as the model is. Threads may share it."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._pieces: dict[int, bytes] = {}
        self._spellings: dict[int, bytes] = {}
        self._marks: dict[str, int | None] = {}
        self.kind: int = C.llama_vocab_type(handle)
        self.n_tokens: int = C.llama_vocab_n_tokens(handle)
        self.bos: int = C.llama_vocab_bos(handle)
        self.eos: int = C.llama_vocab_eos(handle)
        self.sep: int = C.llama_vocab_sep(handle)
        self.fim = FimTokens(
            prefix=C.llama_vocab_fim_pre(handle),
            suffix=C.llama_vocab_fim_suf(handle),
            middle=C.llama_vocab_fim_mid(handle),
            pad=C.llama_vocab_fim_pad(handle),
            repository=C.llama_vocab_fim_rep(handle),
            separator=C.llama_vocab_fim_sep(handle),
        )
        self.adds_bos: bool = C.llama_vocab_get_add_bos(handle)
        self.adds_eos: bool = C.llama_vocab_get_add_eos(handle)
        self.adds_sep: bool = C.llama_vocab_get_add_sep(handle)
        self.plain = [""] * self.n_tokens  # texts by token, see `note_plain`; "": none is known
        self._n_noted = 0
        self._eog = frozenset(t for t in range(self.n_tokens) if C.llama_vocab_is_eog(handle, t))

    def is_end(self, token: int) -> bool:
        """True for tokens that end a generation (end of sequence, end of turn, ...)."""
        return token in self._eog

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """Token ids of `text`. `add_special` adds BOS and EOS if the model wants them."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 2
        while True:
            tokens = (ctypes.c_int32 * room)()
            n = C.llama_tokenize(self._handle, data, len(data), tokens, room, add_special, parse_special)
            if n >= 0:
                return tokens[:n]
            room = -n

    def tokenize_inside(self, text: str, *, parse_special: bool) -> list[int]:
        """Tokenize `text` as a continuation: at the beginning of a text, SentencePiece adds a space."""
        before, both = (
            self.tokenize(part, add_special=False, parse_special=parse_special)
            for part in (_BEFORE, _BEFORE + text)
        )
        return both[len(before) :]

    def piece(self, token: int) -> bytes:
        """The bytes of a token in a text; control tokens have none."""
        cached = self._pieces.get(token)
        if cached is None:
            cached = self._pieces[token] = self._render(token, special=False)
        return cached

    def spelling(self, token: int) -> bytes:
        """The bytes of a token in a prompt, control tokens included ("<|im_end|>")."""
        cached = self._spellings.get(token)
        if cached is None:
            cached = self._spellings[token] = self._render(token, special=True)
        return cached

    def note_more(self) -> bool:
        """Look up the pieces of some more tokens, which takes a millisecond; False once all are known."""
        start, end = self._n_noted, min(self._n_noted + 256, self.n_tokens)
        for token in range(start, end):
            self.note_plain(token)
        self._n_noted = end
        return start < end

    def note_plain(self, token: int) -> None:
        """Keep the text of a token in `plain`, if it is ASCII wherever the token stands.

        Control tokens and tokens that end a generation are left out: they may be hidden.
        """
        piece = self.piece(token)  # none for control tokens
        if piece and piece.isascii() and token not in self._eog:
            self.plain[token] = piece.decode("ascii")

    def name(self, token: int) -> bytes:
        """A token's text in the model file."""
        return bytes(C.llama_vocab_get_text(self._handle, token))

    def text_of(self, token: int) -> str:
        """A token's text in a prompt; "" if the model lacks it."""
        return self.spelling(token).decode("utf-8", "replace") if token >= 0 else ""

    def marks(self, spellings: tuple[str, ...]) -> frozenset[int]:
        """The tokens of texts that are single tokens; other texts are left out."""
        for text in spellings:
            if text not in self._marks:
                tokens = self.tokenize(text, add_special=False)
                self._marks[text] = tokens[0] if len(tokens) == 1 else None
        return frozenset(token for text in spellings if (token := self._marks[text]) is not None)

    def is_special(self, token: int) -> bool:
        """True for control tokens and the unknown token, which no text contains."""
        return bool(C.llama_vocab_get_attr(self._handle, token) & (_CONTROL | _UNKNOWN))

    @property
    def _with_texts(self) -> range:
        """The tokens that have a text; without a vocabulary none, and llama.cpp aborts if asked for one."""
        return range(self.n_tokens if self.kind != C.LLAMA_VOCAB_TYPE_NONE else 0)

    @cached_property
    def specials(self) -> tuple[Special, ...]:
        """The tokens of cache_special_tokens in llama-vocab.cpp that have a text."""
        found = []
        for token in self._with_texts:
            attributes = C.llama_vocab_get_attr(self._handle, token)
            if attributes & (_CONTROL | _UNKNOWN | _USER_DEFINED) and (name := self.name(token)):
                flags = [bool(attributes & bits) for bits in (_CONTROL | _UNKNOWN, _LSTRIP, _RSTRIP)]
                found.append(Special(name.decode("utf-8", "replace"), *flags))
        return tuple(found)

    @cached_property
    def longest_bytes(self) -> int:
        """The bytes of the longest token in a prompt."""
        empty = ctypes.create_string_buffer(1)
        lengths = (
            C.llama_token_to_piece(self._handle, token, empty, 0, 0, True) for token in self._with_texts
        )
        return max(
            1, -int(min(lengths, default=0))
        )  # a length that does not fit comes back as a negative number

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a generation."""
        return self._eog

    def dry(self, **options: Any) -> DrySampler:
        """A sampler against repeated phrases, with breakers in this vocabulary."""
        return DrySampler(self._handle, **options)

    def add_infill(self, chain: SamplerChain) -> None:
        """Add llama.cpp's sampler for gaps in code to a chain."""
        chain.infill(self._handle)

    def _render(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        while (n := C.llama_token_to_piece(self._handle, token, buffer, len(buffer), 0, special)) < 0:
            buffer = ctypes.create_string_buffer(-n)
        return ctypes.string_at(buffer, n)


class TextStream:
    """Turns tokens into text: only whole UTF-8 characters, and nothing after a stop string.

    A stop string may span tokens, so text that could still become one is held back until it is decided. The
    one that is complete first counts, so that how the text falls into tokens makes no difference.
    """

    def __init__(
        self,
        vocab: Vocab,
        stop: tuple[str, ...] = (),
        *,
        show_special: bool = False,
        marks: frozenset[int] = frozenset(),
    ) -> None:
        """With `show_special` the text has all control tokens, else only those of `marks`."""
        self._vocab = vocab
        self._marks = marks
        self._piece = vocab.spelling if show_special else vocab.piece
        self._decoder = _Decoder("replace")
        self._is_open = False  # inside a character
        self._stop = stop
        self._held = ""
        self.stop: str | None = None  # the stop string that was met

    @property
    def stopped(self) -> bool:
        """Whether the text has reached a stop string."""
        return self.stop is not None

    @property
    def is_plain(self) -> bool:
        """True if the next token's text is its `Vocab.plain` text, if it has one."""
        return not (self._is_open or self._stop)

    def push(self, token: int) -> str:
        """The text that became final with this token."""
        shown = self._vocab.spelling(token) if token in self._marks else self._piece(token)
        if shown.isascii() and not self._is_open:  # most texts, which need no decoder
            return self._release(shown.decode("ascii")) if self._stop else shown.decode("ascii")
        text = self._decoder.decode(shown)
        self._is_open = bool(self._decoder.getstate()[0])
        return self._release(text)

    def finish(self) -> str:
        """The text held back, at the end of a generation."""
        text = self._release(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _release(self, text: str) -> str:
        if not self._stop:
            return text
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(stop), at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            _, start, self.stop = min(found)
            text, self._held = self._held[:start], ""
            return text
        keep = max(overlap(self._held, stop) for stop in self._stop)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text
