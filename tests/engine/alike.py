"""Whether two samples were drawn from the same distribution."""

from collections import Counter

Counts = Counter[int]


def are_alike(a: Counts, b: Counts) -> bool:
    """Two-sample chi-square over tokens drawn often enough, at about four standard deviations."""
    bins = [token for token in a | b if a[token] + b[token] >= 20]
    rest = (a.total() - sum(a[t] for t in bins), b.total() - sum(b[t] for t in bins))
    pairs = [(a[t], b[t]) for t in bins] + ([rest] if sum(rest) >= 20 else [])
    scale = (b.total() / a.total()) ** 0.5
    statistic = sum((x * scale - y / scale) ** 2 / (x + y) for x, y in pairs)
    freedom = max(len(pairs) - 1, 1)
    return bool(statistic < freedom + 4 * (2 * freedom) ** 0.5 + 8)
