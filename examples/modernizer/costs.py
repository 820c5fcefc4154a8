"""What the same tokens would have cost elsewhere, by prices that are given."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Of a million tokens each, in the currency of the file."""

    name: str
    input: float
    output: float
    cached_input: float | None = None

    def of(self, usage: Mapping[str, int]) -> float:
        """What `usage` costs; tokens from the cache at their own price where there is one."""
        cached = usage["cached_tokens"]
        cheap = self.input if self.cached_input is None else self.cached_input
        fresh = usage["prompt_tokens"] - cached
        return (fresh * self.input + cached * cheap + usage["completion_tokens"] * self.output) / MILLION


def prices(path: Path) -> list[Price]:
    """Those in a file: [{"name": ..., "input": ..., "output": ..., "cached_input": ...}]."""
    return [Price(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def electricity(seconds: float, watts: float, kwh_price: float) -> float:
    """What the computer used in that time."""
    return seconds / 3600 * watts / 1000 * kwh_price


def table(costs: Mapping[str, float]) -> str:
    """One line for each, the cheapest first."""
    width = max(map(len, costs), default=0)
    rows = sorted(costs.items(), key=lambda row: row[1])
    return "\n".join(f"{name:<{width}}  {cost:>12.4f}" for name, cost in rows)
