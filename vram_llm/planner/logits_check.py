"""Whether two loads of a model agree: log probabilities of the same tokens, compared position by position.

A tensor split adds partial sums in another order than a layer split, and other kernels may multiply narrower
matrices, so that logits differ by rounding. The bound is a share of the standard deviation of the log
probabilities, since a model's logits have no unit. On two workers a llama of two layers differed by 0.0014 at
most, and in nine positions of ten not at all; a KV cache of q4_0 in place of f16 made 29 %. One position in
ten may be off: where two experts are nearly equal, rounding selects the other one.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

BOUND = 0.05  # of the standard deviation
_SHARE = 0.9  # of the positions have to be within the bound


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsCheck:
    """The comparison of a tensor split with the layer split of the same model.

    `difference` is the largest of the nearest nine tenths of all positions, in standard deviations of the
    layer split's log probabilities; None if a log probability is not a number.
    """

    n_positions: int
    difference: float | None
    bound: float = BOUND

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the bound."""
        return self.difference is not None and self.difference <= self.bound

    @property
    def verdict(self) -> str:
        """One sentence, with what to try if the splits do not agree."""
        if self.difference is None:
            return "logits of the tensor split are not numbers: plan with --split-mode layer"
        differ = f"differ from the layer split's by {self.difference:.2%} of their standard deviation"
        if self.agrees:
            return f"logits of the tensor split {differ}, which is rounding ({self.n_positions} positions)"
        return (
            f"logits of the tensor split {differ}, and rounding explains {self.bound:.0%}: "
            "plan with --split-mode layer"
        )


def compare_logprobs(expected: Sequence[float], found: Sequence[float]) -> LogitsCheck:
    """Compare log probabilities of the same tokens, at least two, by a layer split and by a tensor split."""
    n = len(expected)
    if not all(map(math.isfinite, (*expected, *found))):
        return LogitsCheck(n_positions=n, difference=None)
    unit = statistics.pstdev(expected) or 1.0
    off = sorted(abs(a - b) for a, b in zip(expected, found, strict=True))
    return LogitsCheck(n_positions=n, difference=off[math.ceil(_SHARE * n) - 1] / unit)
