"""A histogram's counts, plain enough to observe every token."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import count


class BucketCounts:
    """The number of values in each bucket. Bucket i has those up to `bounds[i]`, the last one the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0  # the sum of the values

    def observe(self, value: float, n: int = 1) -> None:
        """Count a value `n` times."""
        self.counts[bisect_left(self.bounds, value)] += n
        self.total += n * value

    def add(self, other: "BucketCounts") -> None:
        """Count the values of another histogram too. One's bounds are the beginning of the other's."""
        if len(other.bounds) > len(self.bounds):
            self.bounds = other.bounds
        self.counts += [0] * (len(self.bounds) + 1 - len(self.counts))
        for i, n in enumerate(other.counts):
            self.counts[i] += n
        self.total += other.total

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)


def bounds_1_2_5(most: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50, ... up to `most` (build_1_2_5_buckets of vLLM's v1/metrics/loggers.py)."""
    found: list[int] = []
    for exponent in count():
        for mantissa in (1, 2, 5):
            if mantissa * 10**exponent > most:
                return tuple(found)
            found.append(mantissa * 10**exponent)
    raise AssertionError("count() does not end")
