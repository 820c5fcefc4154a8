"""The range of a predicted speed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRange:
    """Tokens per second between which nine of ten measurements are expected."""

    low: float
    high: float
