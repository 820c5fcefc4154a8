"""Tokens that a request forbids or prescribes, with any sampler: `min_tokens`, a reasoning budget."""

from enum import Enum, auto

import numpy as np

from vram_llm.engine.request import ReasoningBudget, Request
from vram_llm.engine.sampling.numpy_sampler import Indices
from vram_llm.llama.vocab import Vocab
from vram_llm.text.overlap import overlap

_SPACE = b" \t\r\n"
_ENDLESS = 2**31
_MAX_LATE = 3  # tokens past the budget: the longest character has four bytes


class _Phase(Enum):
    BEFORE = auto()  # only space or a part of the opening mark was written
    THINKING = auto()
    CLOSING = auto()  # the closing mark is being written
    ANSWERING = auto()


class ThinkingBudget:
    """Follows the thinking of one answer; `due` are the tokens that close it once its budget is spent.

    A character or a mark in which the budget ends is finished first, so thinking may take a few more tokens.
    """

    def __init__(self, vocab: Vocab, budget: ReasoningBudget) -> None:
        self._vocab, self._budget = vocab, budget
        self._opening, self._closing = budget.opening.encode(), budget.closing.encode()
        self._phase = _Phase.THINKING if budget.opened else _Phase.BEFORE
        self._text = b""  # the end of this phase's text, as far as marks may reach into it
        self._n_left = budget.n_tokens
        self.due: list[int] = []
        self._update_phase()

    @property
    def is_over(self) -> bool:
        """True once no thinking can follow."""
        return self._phase is _Phase.ANSWERING and not self._budget.again

    @property
    def n_left(self) -> int:
        """Tokens left in the budget; 0 once it is spent."""
        return max(self._n_left, 0)

    def accept(self, token: int) -> None:
        """Take in a token that was written."""
        if self.is_over:
            return
        self._text += self._vocab.spelling(token)
        if self.due and token == self.due.pop(0):
            if not self.due:
                self._enter(_Phase.ANSWERING)
            return
        if self._phase is _Phase.CLOSING:  # a grammar did not allow the mark: try again later
            self._phase, self.due = _Phase.THINKING, []
        if self._phase is _Phase.THINKING:
            self._n_left -= 1
        self._update_phase()

    def _enter(self, phase: _Phase, text: bytes = b"") -> None:
        self._phase, self._text = phase, text

    def _update_phase(self) -> None:
        """Enter the phase that the text of the current one leads to."""
        if self._phase is _Phase.BEFORE:
            begun = self._text.lstrip(_SPACE)
            if begun.startswith(self._opening):
                self._enter(_Phase.THINKING, begun[len(self._opening) :])
            elif not self._opening.startswith(begun):
                self._enter(_Phase.ANSWERING, begun)
        if self._phase is _Phase.ANSWERING and self._budget.again:
            _, found, after = self._text.partition(self._opening)
            if found:
                self._enter(_Phase.THINKING, after)
            else:
                self._text = self._text[-len(self._opening) :]
        if self._phase is _Phase.THINKING:
            _, found, after = self._text.partition(self._closing)
            if found:
                self._enter(_Phase.ANSWERING, after)
                return
            is_cut = self._n_left > -_MAX_LATE and _is_open(self._text)
            if self._n_left <= 0 and not is_cut:
                written = overlap(self._text, self._closing)
                rest = self._closing[written:].decode()
                self.due = self._vocab.tokenize_inside(rest, parse_special=True)
                self._phase = _Phase.CLOSING
            self._text = self._text[-len(self._closing) :]


class TokenRules:
    """The tokens that one request forbids or prescribes."""

    def __init__(self, vocab: Vocab, request: Request) -> None:
        budget = request.reasoning_budget
        self._thinking = None if budget is None else ThinkingBudget(vocab, budget)
        self._n_left = request.min_tokens
        ends = vocab.ends if not request.ignore_eos else frozenset[int]()
        self._ends = np.array(sorted(ends.union(request.stop_token_ids)), np.intp)
        self._n_vocab = vocab.n_tokens

    @property
    def is_over(self) -> bool:
        """True once all tokens are free."""
        return self._n_left <= 0 and (self._thinking is None or self._thinking.is_over)

    def allowed(self, allowed: Indices | None) -> Indices | None:
        """The tokens of `allowed` that may come next, at least one. None stands for all tokens."""
        if self._thinking is not None and self._thinking.due:
            due = np.array(self._thinking.due[:1], np.intp)
            if allowed is None or np.isin(due[0], allowed):
                return due
        if self._n_left <= 0:
            return allowed
        tokens = np.arange(self._n_vocab) if allowed is None else allowed
        tokens = np.setdiff1d(tokens, self._ends, assume_unique=True)
        return tokens if len(tokens) else allowed

    @property
    def n_free(self) -> int:
        """How many of the next tokens are free."""
        if self._n_left > 0:
            return 0
        return _ENDLESS if self._thinking is None else self._thinking.n_left

    def accept(self, token: int) -> None:
        """Take in a sampled token."""
        self._n_left -= 1
        if self._thinking is not None:
            self._thinking.accept(token)


def token_rules(vocab: Vocab, request: Request) -> TokenRules | None:
    """The token rules of a request; None if it forbids and prescribes nothing."""
    return TokenRules(vocab, request) if request.has_token_rules else None


def _is_open(text: bytes) -> bool:
    """Whether bytes end inside a UTF-8 character."""
    for n in range(1, min(len(text), _MAX_LATE + 1) + 1):
        byte = text[-n]
        if byte & 0xC0 != 0x80:  # the character's first
            length = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return n < length
    return False
