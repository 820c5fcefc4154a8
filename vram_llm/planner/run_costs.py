"""Seconds of the items of a model on one device, for any run of them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunCosts:
    """Seconds of any run of items on one device; the output is the item after the last layer."""

    fixed: float  # of every run, whatever its items
    sums: list[float]  # sums[i]: of all items before i

    def run(self, start: int, end: int) -> float:
        """Seconds for items start to end-1; 0 for an empty run."""
        return self.fixed + self.sums[end] - self.sums[start] if end > start else 0.0
