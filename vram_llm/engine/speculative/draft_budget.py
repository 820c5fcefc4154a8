"""How many tokens a draft model is asked for, and whether it is asked at all. Policy: no clock, no llama.cpp.

A guess that stands saves the time of a token; each costs the draft model's time and a row of the step. Both
are seen in the steps (speculative.RowCost has the rows). Where guesses are not known to pay, all that is
spent on finding out is a share of the time that steps take: that bounds what a useless draft model costs.
"""

from vram_llm.engine.speculative.row_cost import RowCost, leaning_low

MOST_GUESSED = 8  # tokens at a time
TRIED_SHARE = 0.03  # of the time of steps, for guesses that are not known to pay
FREE_ROWS = 16  # of a sequence that the draft model may be behind with, whatever they cost
_AT_FIRST = 0.7  # of the guesses stand, as long as none was checked
_MOST_STANDING = 0.98
_NEWEST, _NEWEST_OF_ALL = 0.12, 0.06  # weights of a guess that was checked, in a sequence and over all
_FEW = 3  # guesses checked: as much as is made of what was taken to stand at first
_START_STEPS, _MOST_STEPS = 1.0, 8.0  # credit at first and at most, in steps
_FIRST_FOLLOWED = 64  # rows, before it is known what they cost


class Worth:
    """What guesses cost and win, over all sequences.

    `target_s` is how long the draft model may read what it is behind with, in a step.
    """

    def __init__(self, cost: RowCost, target_s: float) -> None:
        self._cost, self._target_s = cost, target_s
        self.stands = _AT_FIRST  # the share of guesses, each after one that stood, that stand
        self._n_seen = 0
        self._guess_s: float | None = None  # of the draft model, for one token of one stream
        self._follow_s: float | None = None  # of it, for a row that it reads
        self._credit_s: float | None = None

    @property
    def may_try(self) -> bool:
        """Whether there is time left for guesses that are not known to pay."""
        return self._credit_s is None or self._credit_s > 0

    def length(self, stands: float, most: int) -> int:
        """How many guesses pay where a share of `stands` stands: those whose chance is above their price."""
        n, chance, price = 0, stands, self._price
        while n < min(most, MOST_GUESSED) and chance > price:
            n, chance = n + 1, chance * stands
        return n

    def pays_to_follow(self, stands: float, n_behind: int, n_left: int) -> bool:
        """Whether guesses for at most `n_left` tokens more repay reading `n_behind` rows."""
        n = self.length(stands, MOST_GUESSED)
        n_standing = sum(stands**i for i in range(1, n + 1))
        won = (n_standing - n * self._price) / (1 + n_standing) * self._cost.token_s
        return won * n_left >= (n_behind - FREE_ROWS) * (self._follow_s or 0.0)

    def rows_to_follow(self, most: int) -> int:
        """How many rows the draft model may read in a step."""
        if self._follow_s is None:
            return min(_FIRST_FOLLOWED, most)
        return max(min(int(self._target_s / self._follow_s), most), FREE_ROWS)

    @property
    def _price(self) -> float:
        """Of a guess, in tokens without drafts."""
        return (self._cost.row_s + (self._guess_s or 0.0)) / max(self._cost.token_s, 1e-9)

    def earn(self, seconds: float) -> None:
        """A step took `seconds`."""
        if self._credit_s is None:
            self._credit_s = _START_STEPS * seconds
        self._credit_s = min(
            self._credit_s + TRIED_SHARE * seconds, max(self._credit_s, _MOST_STEPS * seconds)
        )

    def observe_read(self, n_rows: int, seconds: float) -> None:
        """The draft model read `n_rows` that it was behind with."""
        self._follow_s = leaning_low(self._follow_s, seconds / n_rows)

    def observe_guesses(self, n_guessed: int, seconds: float) -> None:
        """The draft model guessed so many tokens, of all streams."""
        self._guess_s = leaning_low(self._guess_s, seconds / n_guessed)

    def spend(self, n_guessed: int, seconds: float) -> None:
        """So many tokens were guessed to see whether they stand, and the draft model took so long for it."""
        left_s = (self._credit_s or 0.0) - seconds - n_guessed * self._cost.row_s
        self._credit_s = max(left_s, -_MOST_STEPS * self._cost.token_s)  # whatever came between

    def observe(self, n_guessed: int, n_right: int) -> None:
        """Note what became of some guesses."""
        self.stands = _seen(self.stands, n_guessed, n_right, max(_NEWEST_OF_ALL, 1 / (_FEW + self._n_seen)))
        self._n_seen += min(n_right + 1, n_guessed)


class Guesses:
    """How well one sequence is guessed."""

    def __init__(self, worth: Worth) -> None:
        self._worth = worth
        self._stands = worth.stands
        self._n_seen = 0
        self.is_over = False  # the draft model cannot follow this sequence

    def length(self, most: int) -> tuple[int, bool]:
        """How many tokens to guess, at most `most`, and whether that is known to pay."""
        if self.is_over or most < 1:
            return 0, False
        if n := self._worth.length(self._stands, most):
            return n, True
        return int(self._worth.may_try), False

    def pays_to_follow(self, n_behind: int, n_left: int) -> bool:
        """As Worth's, for this sequence."""
        return self._worth.pays_to_follow(self._stands, n_behind, n_left)

    def observe(self, n_guessed: int, n_right: int) -> None:
        """Note what became of the last guesses."""
        self._stands = _seen(self._stands, n_guessed, n_right, max(_NEWEST, 1 / (_FEW + self._n_seen)))
        self._n_seen += min(n_right + 1, n_guessed)
        self._worth.observe(n_guessed, n_right)


def _seen(stands: float, n_guessed: int, n_right: int, weight: float) -> float:
    """The share that stands, after `n_right` guesses that did and, if there were more, one that did not."""
    for _ in range(n_right):
        stands += weight * (_MOST_STANDING - stands)
    return stands if n_right == n_guessed else stands * (1 - weight)
