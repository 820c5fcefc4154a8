"""Prompt lookup: what followed the last few tokens when the sequence had them before, as a draft.

A draft is computed in the same batch as the token it follows, and each place of it is then sampled as if it
had not been known: where that gives the draft's token, the next place stands; the first that differs ends it.
The answer is what it would have been, whatever the sampler, and rounding aside.
"""

from collections.abc import Sequence
from math import ceil

from vram_llm.engine.speculative.row_cost import RowCost

N_GRAM = 3  # tokens that must have occurred before
MOST_INDEXED = 16_384  # tokens at the sequence's end that are looked through
START_CREDIT, MOST_CREDIT = 1.0, 16.0  # rows
EARNED_PER_TOKEN = 0.04  # rows that a token chosen without a draft earns, at most


class PromptLookup:
    """Drafts for one sequence, as many tokens as it has credit for.

    Every draft token that is refused costs a row of credit and every one that stands earns what it won, so
    that drafts grow while they succeed. Where they do not, all that is spent on them is START_CREDIT and
    EARNED_PER_TOKEN of a row a token: 4 % of the time even where a row more costs as much as a step more.
    Both are less where a draft that stands wins less than a row, as it does beside many streams, and where
    few have stood lately.
    """

    def __init__(self, cost: RowCost | None = None) -> None:
        self._cost = cost or RowCost()
        self._after: dict[tuple[int, ...], int] = {}  # where the last n tokens went on, the last time
        self._n_indexed = 0
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
        while len(draft) < most:  # a loop shorter than the draft goes on in it
            draft.append(draft[len(draft) - (len(tokens) - at)])
        return draft

    def observe(self, n_drafted: int, n_accepted: int) -> None:
        """Note what became of the last draft, of at least one token."""
        self._cost.learn(n_drafted, n_accepted)
        self._earn(n_accepted * self._cost.gain - (n_drafted - n_accepted))

    def rest(self, n_tokens: int) -> None:
        """Note that so many tokens came without a draft."""
        self._earn(n_tokens * EARNED_PER_TOKEN * self._cost.worth_trying)

    @property
    def n_resting(self) -> int:
        """Tokens that have to come before there is credit for a draft; 0 where there is."""
        return max(ceil((1 - self._credit) / (EARNED_PER_TOKEN * self._cost.worth_trying)), 0)

    def _earn(self, rows: float) -> None:
        self._credit = min(self._credit + rows, MOST_CREDIT)

    def _index(self, tokens: Sequence[int]) -> None:
        start = max(self._n_indexed, N_GRAM, len(tokens) - MOST_INDEXED)
        for at in range(start, len(tokens)):
            self._after[tuple(tokens[at - N_GRAM : at])] = at
        self._n_indexed = len(tokens)
