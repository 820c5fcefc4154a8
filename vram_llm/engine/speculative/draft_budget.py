"""The number of tokens that a draft model drafts, which may be 0. Policy: no clock, no llama.cpp.

An accepted draft token saves the time of a token. Each drafted one costs the draft model's time and a row of
the step. Both are measured in the steps (RowCost has the rows). If drafts are not known to pay, trials of one
token may take a small share of the time of steps. Each trial that fails halves this share, so that a useless
draft model is tried ever more rarely. Acceptance rate and share are the engine's: later requests begin with
them.
"""

from math import ceil

from vram_llm.engine.speculative.row_cost import RowCost, robust_mean

MAX_DRAFTED = 8  # tokens at a time
TRIED_SHARE = 0.02  # of the time of steps, for drafts that are not known to pay
LEAST_TRIED_SHARE = 0.001  # after many trials that failed
FREE_ROWS = 16  # rows of a sequence that the draft model may read at any cost
TRIAL_ROWS = 8  # tokens before a trial that an MTP head reads
_FIRST_RATE = 0.7  # acceptance rate before any draft was checked
_MAX_RATE = 0.98
_NEWEST, _NEWEST_OF_ALL = 0.12, 0.06  # weights of a checked token, in a sequence and over all
_FEW = 3  # checked tokens that weigh as much as the assumed first rate
_FIRST_DEBT, _MAX_STEPS = 1.0, 8.0  # debt at first, and credit and debt at most, in steps
_FIRST_FOLLOWED = 64  # rows to read in a step, before their cost is known
_NEVER = 1 << 30  # steps


class DraftCostModel:
    """Cost and gain of drafts, over all sequences.

    `target_s` is how long the draft model may read tokens it has not seen, in a step.
    """

    def __init__(self, cost: RowCost, target_s: float) -> None:
        self._cost, self._target_s = cost, target_s
        self.acceptance_rate = _FIRST_RATE  # of draft tokens whose predecessors were accepted
        self._n_checked = 0
        self._token_s: float | None = None  # of the draft model, to draft a token for one stream
        self._is_first_run = True  # of the draft model
        self._follow_s: float | None = None  # of the draft model, to read a row
        self._credit_s: float | None = None
        self._was_tried = False  # a trial was made
        self._n_accepted = 0
        self._n_failed = 0  # trials since the last one that was accepted

    @property
    def may_try(self) -> bool:
        """Whether there is time left for drafts that are not known to pay."""
        return self._credit_s is not None and self._credit_s >= 0

    @property
    def steps_until_trial(self) -> int:
        """Steps without drafts until a trial may be made, estimated; 0: at once."""
        if self._credit_s is None or not self._cost.step_s:
            return 1
        return max(ceil(-self._credit_s / (self._tried_share * self._cost.step_s)), 0)

    @property
    def _tried_share(self) -> float:
        return max(TRIED_SHARE * 0.5**self._n_failed, LEAST_TRIED_SHARE)

    def length(self, acceptance_rate: float, most: int) -> int:
        """Tokens to draft, at most `most`: those whose chance of acceptance exceeds their price.

        The first drafts of all are short: no more than one token longer than those accepted so far together.
        """
        n, chance, price = 0, acceptance_rate, self._price
        while n < min(most, MAX_DRAFTED, 1 + self._n_accepted) and chance > price:
            n, chance = n + 1, chance * acceptance_rate
        return n

    def pays_to_follow(self, acceptance_rate: float, n_behind: int, n_left: int) -> bool:
        """Whether drafts for at most `n_left` more tokens repay reading `n_behind` rows."""
        n = self.length(acceptance_rate, MAX_DRAFTED)
        n_accepted = sum(acceptance_rate**i for i in range(1, n + 1))
        gain_s = (n_accepted - n * self._price) / (1 + n_accepted) * self._cost.token_s
        return gain_s * n_left >= (n_behind - FREE_ROWS) * (self._follow_s or 0.0)

    def rows_to_follow(self, most: int) -> int:
        """How many rows the draft model may read in a step, at most `most`."""
        if self._follow_s is None:
            return min(_FIRST_FOLLOWED, most)
        return max(min(int(self._target_s / self._follow_s), most), FREE_ROWS)

    @property
    def _price(self) -> float:
        """Price of a drafted token, in tokens generated without drafts."""
        return (self._cost.row_s + (self._token_s or 0.0)) / max(self._cost.token_s, 1e-9)

    def earn(self, seconds: float, n_steps: int = 1) -> None:
        """Add credit for `n_steps` steps that took `seconds` together.

        Debt is counted in decode steps as they are now: neither a prompt nor a disturbed step adds to it.
        """
        if not self._cost.step_s:
            return
        if self._credit_s is None:
            self._credit_s = -_FIRST_DEBT * self._cost.step_s
        most_debt = _MAX_STEPS if self._was_tried else _FIRST_DEBT
        self._credit_s = max(self._credit_s, -most_debt * self._cost.step_s)
        self._credit_s = min(
            self._credit_s + self._tried_share * seconds,
            max(self._credit_s, _MAX_STEPS * seconds / n_steps),
        )

    def observe_read(self, n_rows: int, seconds: float) -> None:
        """The draft model read `n_rows` of tokens it had not seen in `seconds`."""
        self._follow_s = robust_mean(self._follow_s, seconds / n_rows)

    def observe_drafting(self, n_drafted: int, seconds: float) -> None:
        """The draft model drafted `n_drafted` tokens, one for each stream, in `seconds`.

        The first run is not counted: a device may load kernels for it. A token counts as one of the model at
        most: then drafts do not pay anyway, and another program that disturbs a run counts for little.
        """
        if self._is_first_run:
            self._is_first_run = False
            return
        token_s = min(seconds / n_drafted, self._cost.token_s or seconds)
        self._token_s = robust_mean(self._token_s, token_s)

    def spend(self, n_drafted: int, seconds: float) -> None:
        """Take credit for a trial of `n_drafted` tokens, for which the draft model took `seconds`."""
        self._was_tried = True
        left_s = min(self._credit_s or 0.0, 0.0) - seconds - n_drafted * self._cost.row_s
        self._credit_s = max(left_s, -_MAX_STEPS * self._cost.step_s)  # a disturbance counts only once

    def observe(self, n_drafted: int, n_accepted: int, *, is_trial: bool = False) -> None:
        """Learn from a checked draft of any sequence. A trial that was accepted cost nothing."""
        weight = max(_NEWEST_OF_ALL, 1 / (_FEW + self._n_checked))
        self.acceptance_rate = _updated(self.acceptance_rate, n_drafted, n_accepted, weight)
        self._n_checked += min(n_accepted + 1, n_drafted)
        self._n_accepted += n_accepted
        if n_accepted:
            self._n_failed = 0
        elif is_trial:
            self._n_failed += 1
        if is_trial and n_accepted and self._credit_s is not None:
            self._credit_s = max(self._credit_s, 0.0)


class SequenceDraftStats:
    """Acceptance rate of the draft model's tokens in one sequence."""

    def __init__(self, cost_model: DraftCostModel) -> None:
        self._cost_model = cost_model
        self._acceptance_rate = cost_model.acceptance_rate
        self._n_checked = 0
        self._is_trial = False  # the last draft was not known to pay
        self.is_over = False  # the draft model cannot follow this sequence

    @property
    def idle_steps(self) -> int:
        """Steps in which nothing is drafted for this sequence, nor read for a trial; 0: drafts may come."""
        if self.is_over:
            return _NEVER
        if self._cost_model.length(self._acceptance_rate, 1):
            return 0
        return max(self._cost_model.steps_until_trial - TRIAL_ROWS, 0)

    def length(self, most: int) -> tuple[int, bool]:
        """How many tokens to draft, at most `most`, and whether that is known to pay."""
        if self.is_over or most < 1:
            return 0, False
        n = self._cost_model.length(self._acceptance_rate, most)
        self._is_trial = not n
        return (n, True) if n else (int(self._cost_model.may_try), False)

    def pays_to_follow(self, n_behind: int, n_left: int) -> bool:
        """`DraftCostModel.pays_to_follow` at this sequence's acceptance rate."""
        return self._cost_model.pays_to_follow(self._acceptance_rate, n_behind, n_left)

    def observe(self, n_drafted: int, n_accepted: int) -> None:
        """Learn from a checked draft."""
        weight = max(_NEWEST, 1 / (_FEW + self._n_checked))
        self._acceptance_rate = _updated(self._acceptance_rate, n_drafted, n_accepted, weight)
        self._n_checked += min(n_accepted + 1, n_drafted)
        self._cost_model.observe(n_drafted, n_accepted, is_trial=self._is_trial)


def _updated(rate: float, n_drafted: int, n_accepted: int, weight: float) -> float:
    """An acceptance rate after `n_accepted` tokens and, if more were drafted, one rejected token."""
    for _ in range(n_accepted):
        rate += weight * (_MAX_RATE - rate)
    return rate if n_accepted == n_drafted else rate * (1 - weight)
