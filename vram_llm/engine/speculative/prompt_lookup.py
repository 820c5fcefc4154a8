"""Prompt lookup: the tokens that followed the last few tokens earlier in the sequence are the draft.

A draft is computed in the same batch as the token before it. Each drafted position is sampled normally; it is
accepted while the sample equals the draft, and the rest is discarded. The answer is the same as without
drafts for every sampler, except for rounding.
"""

from collections.abc import Sequence
from math import ceil

from vram_llm.engine.speculative.row_cost import RowCost

N_GRAM = 3  # tokens that must have occurred before
MAX_INDEXED = 16_384  # tokens at the sequence's end that are indexed
START_CREDIT, MAX_CREDIT = 1.0, 16.0  # rows
EARNED_PER_TOKEN = 0.04  # rows of credit for a token sampled without a draft, at most


class PromptLookup:
    """Drafts for one sequence, as many tokens as it has credit for.

    A rejected draft token costs a row of credit and an accepted one earns its gain, so that drafts grow while
    they succeed. If they fail, they cost START_CREDIT rows, and EARNED_PER_TOKEN rows a token: 4 % of the
    time even if one more row costs as much as one more step. Both are less if an accepted token gains less
    than a row, as with many streams, and if few drafts were accepted lately.
    """

    def __init__(self, cost: RowCost | None = None) -> None:
        self._cost = cost or RowCost()
        self._after: dict[tuple[int, ...], int] = {}  # index after the last occurrence of n tokens
        self._n_indexed = 0
        self._last: tuple[int, ...] = ()  # the newest tokens, at most N_GRAM, of a sequence that is followed
        self._credit = START_CREDIT * self._cost.worth_trying

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens that may come after `tokens`; often none."""
        most = min(most, int(self._credit))
        if most < 1 or len(tokens) <= N_GRAM:
            return []
        self._index(tokens)
        at = self._after.get(tuple(tokens[-N_GRAM:]))
        if at is None:
            return []
        draft = list(tokens[at : at + most])
        while len(draft) < most:  # if the text loops within the draft, repeat the loop
            draft.append(draft[len(draft) - (len(tokens) - at)])
        return draft

    def follow(self, tokens: Sequence[int]) -> bool:
        """Begin to take in the tokens after `tokens`, all of the sequence, one by one with `note`.

        Returns whether tokens that may come next are known.
        """
        self._index(tokens)
        self._last = tuple(tokens[-N_GRAM:])
        return self._last in self._after

    def note(self, token: int) -> bool:
        """Take in the sequence's next token. Returns whether tokens that may come after it are known."""
        self._after[self._last] = self._n_indexed
        self._n_indexed += 1
        self._last = (*self._last, token)[-N_GRAM:]
        return self._last in self._after

    def observe(self, n_drafted: int, n_accepted: int) -> None:
        """Learn from the last draft, which had at least one token."""
        self._cost.learn(n_drafted, n_accepted)
        self._earn(n_accepted * self._cost.gain - (n_drafted - n_accepted))

    def earn_credit(self, n_tokens: int) -> None:
        """Add credit for `n_tokens` sampled without a draft."""
        self._earn(n_tokens * EARNED_PER_TOKEN * self._cost.worth_trying)

    @property
    def tokens_until_credit(self) -> int:
        """Tokens to sample before there is credit for a draft; 0 if there is credit."""
        return max(ceil((1 - self._credit) / (EARNED_PER_TOKEN * self._cost.worth_trying)), 0)

    def _earn(self, rows: float) -> None:
        self._credit = min(self._credit + rows, MAX_CREDIT)

    def _index(self, tokens: Sequence[int]) -> None:
        start = max(self._n_indexed, N_GRAM, len(tokens) - MAX_INDEXED)
        for at in range(start, len(tokens)):
            self._after[tuple(tokens[at - N_GRAM : at])] = at
        self._n_indexed = len(tokens)
