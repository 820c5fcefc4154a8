"""Scores of measured candidates, and whether one is faster than another beyond the noise.

The rule is the planner's for prompts (search/prompt_choice.py): a typical request has the predicted prompt
and an answer of 512 tokens. Each of the expected streams has such a request, and their answers are decoded
together. With THROUGHPUT as the objective the prompt alone counts. The fastest candidate may decode at most
a tenth slower than the prediction's choice.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from vram_llm.planner.types import Objective, Workload

SLOWEST_DECODE = 0.9  # of the choice's tokens per second
# Student's t for 95 % in the middle, by the number of values less one
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
_T95_MANY = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTimes:
    """The figures of one measurement: one load of a candidate, measured for some seconds."""

    step_s: float  # in which each stream gets a token
    prompt_token_s: float  # of a token of a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestShape:
    """The request that is weighed."""

    objective: Objective
    streams: int
    prompt_tokens: int

    def seconds(self, times: MeasuredTimes) -> float:
        """The time of a typical request of each stream; with THROUGHPUT, of its prompt."""
        prompt_s = self.streams * self.prompt_tokens * times.prompt_token_s
        if self.objective is Objective.THROUGHPUT:
            return prompt_s
        return prompt_s + Workload.DEFAULT_ANSWER * times.step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much faster one candidate is than another: their times' ratio less 1, and its margin.

    With a probability of 95 % the ratio is within `margin` of it, if the pairs are independent.
    """

    ratio: float
    margin: float
    n_pairs: int

    @property
    def is_certain(self) -> bool:
        """Whether it is faster by more than the noise."""
        return self.ratio > self.margin


def gain(pairs: Sequence[tuple[float, float]]) -> Gain | None:
    """The gain of the second of each pair of times over the first; None with fewer than two pairs.

    The ratio is the median; the margin comes from the spread of the pairs' ratios.
    """
    if len(pairs) < 2:
        return None
    ratios = [first / second - 1 for first, second in pairs]
    t95 = _T95[len(ratios) - 2] if len(ratios) - 2 < len(_T95) else _T95_MANY
    margin = t95 * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return Gain(ratio=statistics.median(ratios), margin=margin, n_pairs=len(ratios))


def noise(values: Sequence[float]) -> float | None:
    """Half of the range of repeated measurements, as a share of their median; None for one."""
    if len(values) < 2:
        return None
    return (max(values) - min(values)) / 2 / statistics.median(values)


def ranked(relative: dict[int, Sequence[float]]) -> list[int]:
    """Candidates by number, the fastest first.

    `relative` has each candidate's times as shares of the choice's in the same pass, so that a machine that
    becomes slower meanwhile harms all alike.
    """
    return sorted(relative, key=lambda number: (statistics.median(relative[number]), number))
