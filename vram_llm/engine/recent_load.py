"""Rates and times of the last seconds, from counts that only grow."""

from collections import deque
from operator import sub
from typing import NamedTuple

_WINDOW_S = 5.0  # as vLLM's line of the log
_EVERY_S = 0.5


class LoadCounts(NamedTuple):
    """Counts and sums since the start."""

    prompt_tokens: int = 0  # computed
    generation_tokens: int = 0
    n_first: int = 0  # first tokens
    first_s: float = 0.0  # sum of the times to them
    n_later: int = 0  # times between tokens
    later_s: float = 0.0


class RecentRates(NamedTuple):
    """Of the last _WINDOW_S. Times are averages; None: there was no token."""

    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    time_to_first_token_s: float | None
    inter_token_latency_s: float | None
    n_first: int = 0  # first tokens
    n_later: int = 0  # times between tokens


class RecentLoad:
    """Keeps counts of the last seconds. Report them while they grow, and ask at any time."""

    def __init__(self, now: float) -> None:
        self._samples = deque([(now, LoadCounts())])
        self._grew_at = now

    def grows(self, now: float) -> bool:
        """Counts have grown. Returns whether they are due for `note`."""
        self._grew_at = now
        return now - self._samples[-1][0] >= _EVERY_S

    def note(self, counts: LoadCounts, now: float) -> None:
        """Keep the counts of this moment, and forget those that are too old."""
        samples = self._samples
        samples.append((now, counts))
        while len(samples) > 1 and samples[1][0] <= now - _WINDOW_S:
            samples.popleft()

    def rates(self, counts: LoadCounts, now: float) -> RecentRates:
        """The growth of the counts in the window that ends now."""
        if now - self._grew_at >= _WINDOW_S:  # the last sample may be older than the last growth
            return RecentRates(0.0, 0.0, None, None)
        before = max((s for s in self._samples if s[0] <= now - _WINDOW_S), default=self._samples[0])
        prompts, generated, n_first, first_s, n_later, later_s = map(sub, counts, before[1])
        seconds = min(now - before[0], _WINDOW_S)  # after an older sample nothing grew for a while
        return RecentRates(
            prompts / seconds if seconds else 0.0,
            generated / seconds if seconds else 0.0,
            first_s / n_first if n_first else None,
            later_s / n_later if n_later else None,
            n_first,
            n_later,
        )
