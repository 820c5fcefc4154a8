"""Prompt lookup: what followed the last few tokens when the sequence had them before, as a draft.

A draft is computed in the same batch as the token it follows, and each place of it is then sampled as if it
had not been known: where that gives the draft's token, the next place stands; the first that differs ends it.
The answer is what it would have been, whatever the sampler, and rounding aside.
"""

from collections.abc import Sequence

N_GRAM = 3  # tokens that must have occurred before
MOST_INDEXED = 16_384  # tokens at the sequence's end that are looked through
START_CREDIT, MOST_CREDIT = 4.0, 16.0  # rows
EARNED_PER_TOKEN = 0.04  # rows that a token chosen without a draft earns


class PromptLookup:
    """Drafts for one sequence, as many tokens as it has credit for.

    Every draft token that is refused costs a row of credit and every one that stands earns one, so that
    drafts grow while they succeed. Where they do not, all that is spent on them is START_CREDIT and
    EARNED_PER_TOKEN of a row a token: 4 % of the time even where a row more costs as much as a step more.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # where the last n tokens went on, the last time
        self._n_indexed = 0
        self._credit = START_CREDIT

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
        """Note what became of the last draft, or that there was none."""
        earned = 2 * n_accepted - n_drafted if n_drafted else EARNED_PER_TOKEN
        self._credit = min(self._credit + earned, MOST_CREDIT)

    def _index(self, tokens: Sequence[int]) -> None:
        start = max(self._n_indexed, N_GRAM, len(tokens) - MOST_INDEXED)
        for at in range(start, len(tokens)):
            self._after[tuple(tokens[at - N_GRAM : at])] = at
        self._n_indexed = len(tokens)
