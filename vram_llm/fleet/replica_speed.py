"""The cost of a replica's steps: predicted by its plan, then measured by its engine's own counts.

A step takes a fixed time, in which weights are read, and a time for each token. Both are fitted by least
squares over the steps of the last seconds. Where all steps are alike, the data do not separate the two: the
prediction then says how the time is divided. Policy only: no clock.
"""

from collections.abc import Sequence
from math import exp, log

from vram_llm.engine.stats import EngineStats
from vram_llm.fleet.replica_choice import StepCost
from vram_llm.planner.types import SpeedEstimate

_MEMORY_S = 20.0  # of busy time
_PRIOR_S = 0.05  # the weight of the prediction, as seconds that were observed
_STEP_TOKENS = 8  # assumed: a step's fixed time equals the time of this number of tokens
_ASSUMED = StepCost(_STEP_TOKENS * 1e-3, 1e-3)


def predicted_cost(speed: SpeedEstimate | None) -> StepCost | None:
    """The cost of a step by a plan's prediction, without the time of attention; None without one."""
    if speed is None:
        return None
    if speed.streams_step_s is not None and speed.streams > 1:
        token_s = (speed.streams_step_s - speed.step_s) / (speed.streams - 1)
    elif speed.prompt_tokens_per_s:
        token_s = 1 / speed.prompt_tokens_per_s
    else:
        token_s = speed.step_s / (_STEP_TOKENS + 1)
    token_s = min(max(token_s, 0.0), speed.step_s)
    return StepCost(speed.step_s - token_s, token_s)


class StepCostMeter:
    """Fits the cost of an engine's steps to its counts."""

    def __init__(self, predicted: StepCost | None) -> None:
        self._predicted = predicted
        self._before = EngineStats()
        self._n_s = self._tokens_s = self._both_s = (
            0.0  # sums of products, divided by seconds: relative errors
        )
        self._n = self._n_tokens = self._seconds = 0.0

    @property
    def is_measured(self) -> bool:
        """Whether a step was observed."""
        return self._seconds > 0

    @property
    def cost(self) -> StepCost | None:
        """The cost of a step: measured, else predicted; None: neither."""
        if not self.is_measured:
            return self._predicted
        prior = self._scaled(self._predicted or _ASSUMED)
        aa, bb, ab, ya, yb = self._n_s, self._tokens_s, self._both_s, self._n, self._n_tokens
        if prior.step_s:
            aa, ya = aa + _PRIOR_S / prior.step_s**2, ya + _PRIOR_S / prior.step_s
        if prior.token_s:
            bb, yb = bb + _PRIOR_S / prior.token_s**2, yb + _PRIOR_S / prior.token_s
        determinant = aa * bb - ab * ab
        if determinant <= 1e-12 * aa * bb:
            return prior
        step_s, token_s = (ya * bb - yb * ab) / determinant, (yb * aa - ya * ab) / determinant
        if step_s < 0:
            return self._scaled(StepCost(0.0, 1.0))
        if token_s < 0:
            return self._scaled(StepCost(1.0, 0.0))
        return self._scaled(StepCost(step_s, token_s))  # which follows a change of speed sooner

    @property
    def measured_to_predicted(self) -> float | None:
        """The time of the steps observed over the predicted one; None without steps or prediction."""
        if self._predicted is None or not self.is_measured:
            return None
        predicted_s = self._predicted.step_s * self._n + self._predicted.token_s * self._n_tokens
        return self._seconds / predicted_s if predicted_s else None

    def restart(self) -> None:
        """Another engine of the same plan begins: its counts begin anew."""
        self._before = EngineStats()

    def observe(self, stats: EngineStats) -> None:
        """Take in the counts of an engine."""
        if stats is self._before:
            return
        before, self._before = self._before, stats
        n, n_tokens = stats.n_steps - before.n_steps, stats.n_step_tokens - before.n_step_tokens
        seconds = _busy_s(stats) - _busy_s(before)
        if n <= 0 or n_tokens <= 0 or seconds <= 0:
            return
        kept = _MEMORY_S / (_MEMORY_S + seconds)
        self._n_s = kept * self._n_s + n * n / seconds
        self._tokens_s = kept * self._tokens_s + n_tokens * n_tokens / seconds
        self._both_s = kept * self._both_s + n * n_tokens / seconds
        self._n = kept * self._n + n
        self._n_tokens = kept * self._n_tokens + n_tokens
        self._seconds = kept * self._seconds + seconds

    def _scaled(self, cost: StepCost) -> StepCost:
        """A cost of the same proportions that takes as long as the steps observed."""
        expected_s = cost.step_s * self._n + cost.token_s * self._n_tokens
        factor = self._seconds / expected_s if expected_s else 1.0
        return StepCost(cost.step_s * factor, cost.token_s * factor)


def known_costs(meters: Sequence[StepCostMeter]) -> list[StepCost]:
    """Every replica's cost.

    Predictions are scaled by the mean ratio of measured costs to predicted ones. A replica without either
    is taken for an average one.
    """
    ratios = [log(ratio) for meter in meters if (ratio := meter.measured_to_predicted) is not None]
    factor = exp(sum(ratios) / len(ratios)) if ratios else 1.0
    costs = [
        cost if cost is None or meter.is_measured else StepCost(cost.step_s * factor, cost.token_s * factor)
        for meter in meters
        for cost in (meter.cost,)
    ]
    known = [cost for cost in costs if cost is not None] or [_ASSUMED]
    mean = StepCost(*(sum(column) / len(known) for column in zip(*known, strict=True)))
    return [cost or mean for cost in costs]


def _busy_s(stats: EngineStats) -> float:
    return stats.llama_s + stats.sampling_s + stats.host_s
