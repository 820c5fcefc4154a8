"""The cost of one more row in a decode step, estimated from steps with and without drafts."""

_MAX_GAIN = 4.0
_MIN_TRIED = 0.1  # the cost of rows is measured now and then
_MIN_TRUST = 0.25  # the next text may be easier to draft
_NEWEST = 0.15  # weight of an observation, once there were some
_LOOK_EVERY = 32  # steps with drafts before one without measures again


class RowCost:
    """The cost of one more row, from the times of steps with and without drafts.

    With n streams a step takes a + b n seconds. An accepted draft token costs b and saves b + a / n; a
    rejected one costs b.
    """

    def __init__(self) -> None:
        self.gain = 1.0  # net gain of an accepted draft token in rows: a / (n b)
        self._trust = 1.0  # share of draft tokens accepted lately, over all sequences
        self._plain_s, self._n_streams = 0.0, 1  # the last steps without drafts
        self._row_s, self._n_seen = 0.0, 0
        self._quick_row_s: float | None = None
        self._is_first = True  # no step with drafts was seen
        self._n_since = 0  # steps with drafts since one without

    def is_fresh(self, n_streams: int) -> bool:
        """Whether a step of `n_streams` without drafts was measured lately."""
        return n_streams == self._n_streams and self._plain_s > 0 and self._n_since < _LOOK_EVERY

    @property
    def step_s(self) -> float:
        """Seconds of a step without drafts; 0 before the first."""
        return self._plain_s

    @property
    def token_s(self) -> float:
        """Seconds for a token of a stream without drafts; 0 before the first."""
        return self._plain_s / self._n_streams

    @property
    def row_s(self) -> float:
        """Seconds for one more row on an undisturbed machine, at most those of a token."""
        if self._quick_row_s is None:
            return self._plain_s / (1 + self._n_streams)
        return min(self._quick_row_s, self.token_s)

    def observe(self, n_streams: int, n_drafted: int, seconds: float) -> None:
        """A step with a token for each of `n_streams` and `n_drafted` draft tokens took `seconds`.

        The first step with drafts tells nothing of a row: a device may load kernels for it.
        """
        if not n_drafted:
            weight = _NEWEST if n_streams == self._n_streams and self._plain_s else 1.0
            self._plain_s += weight * (seconds - self._plain_s)
            self._n_streams, self._n_since = n_streams, 0
        elif self._is_first:
            self._is_first = False
        elif n_streams == self._n_streams and self._plain_s:
            self._n_seen += 1
            self._n_since += 1
            row_s = max(seconds - self._plain_s, 0.0) / n_drafted
            self._row_s += max(1 / self._n_seen, _NEWEST) * (row_s - self._row_s)
            self._quick_row_s = robust_mean(self._quick_row_s, min(row_s, self.token_s))
        self.gain = self._gain(n_streams)

    def learn(self, n_drafted: int, n_accepted: int) -> None:
        """Learn from a checked draft of any sequence."""
        self._trust += _NEWEST * (n_accepted / n_drafted - self._trust)

    @property
    def worth_trying(self) -> float:
        """Factor for the credit that a sequence may spend on drafts that fail, up to 1."""
        return max(self._trust, _MIN_TRUST) * min(max(self.gain, _MIN_TRIED), 1.0)

    def _gain(self, n_streams: int) -> float:
        if not self._n_seen:
            return 1 / n_streams
        alone_s = max(self._plain_s - self._n_streams * self._row_s, 0.0)
        return min(alone_s / n_streams / max(self._row_s, 1e-9), _MAX_GAIN)


def robust_mean(before: float | None, seconds: float) -> float:
    """A running mean of times in which disturbances, which only make times longer, weigh little."""
    if before is None:
        return seconds
    return before + (0.5 if seconds < before else 0.1) * (seconds - before)
