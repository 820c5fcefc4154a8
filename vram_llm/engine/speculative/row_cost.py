"""What one more row in a decode step costs, estimated from steps with and without drafts."""

_MOST_GAIN = 4.0
_LEAST_TRIED = 0.1  # what rows cost has to be seen now and then
_LEAST_TRUST = 0.25  # another text may be another matter
_NEWEST = 0.15  # weight of an observation, once there were some
_LOOK_EVERY = 32  # steps with drafts, before one without shows again what that takes


class RowCost:
    """What a row more costs, out of what steps with and without drafts take.

    With n streams a step takes a + b n seconds. A draft token that stands costs b and saves b and a / n; one
    that is refused costs b.
    """

    def __init__(self) -> None:
        self.gain = 1.0  # rows that a draft token wins where it stands, its own paid: a / (n b)
        self._trust = 1.0  # the share of drafts that stood lately, of all sequences
        self._plain_s, self._n_streams = 0.0, 1  # the last steps without drafts
        self._row_s, self._n_seen = 0.0, 0
        self._quick_row_s: float | None = None
        self._n_since = 0  # steps with drafts since one without

    def is_fresh(self, n_streams: int) -> bool:
        """Whether what `n_streams` take without drafts was seen lately."""
        return n_streams == self._n_streams and self._plain_s > 0 and self._n_since < _LOOK_EVERY

    @property
    def token_s(self) -> float:
        """Seconds for a token of a stream without drafts; 0 before the first."""
        return self._plain_s / self._n_streams

    @property
    def row_s(self) -> float:
        """Seconds that a row more takes where nothing else is in the way: never more than a token's."""
        if self._quick_row_s is None:
            return self._plain_s / (1 + self._n_streams)
        return min(self._quick_row_s, self.token_s)

    def observe(self, n_streams: int, n_drafted: int, seconds: float) -> None:
        """A step that computed a token for each of `n_streams`, and drafts, took `seconds`."""
        if not n_drafted:
            weight = _NEWEST if n_streams == self._n_streams and self._plain_s else 1.0
            self._plain_s += weight * (seconds - self._plain_s)
            self._n_streams, self._n_since = n_streams, 0
        elif n_streams == self._n_streams and self._plain_s:
            self._n_seen += 1
            self._n_since += 1
            row_s = max(seconds - self._plain_s, 0.0) / n_drafted
            self._row_s += max(1 / self._n_seen, _NEWEST) * (row_s - self._row_s)
            self._quick_row_s = leaning_low(self._quick_row_s, row_s)
        self.gain = self._gain(n_streams)

    def learn(self, n_drafted: int, n_accepted: int) -> None:
        """Note what became of a draft of any sequence."""
        self._trust += _NEWEST * (n_accepted / n_drafted - self._trust)

    @property
    def worth_trying(self) -> float:
        """Of what a sequence may spend on drafts without success, the share it should."""
        return max(self._trust, _LEAST_TRUST) * min(max(self.gain, _LEAST_TRIED), 1.0)

    def _gain(self, n_streams: int) -> float:
        if not self._n_seen:
            return 1 / n_streams
        alone_s = max(self._plain_s - self._n_streams * self._row_s, 0.0)
        return min(alone_s / n_streams / max(self._row_s, 1e-9), _MOST_GAIN)


def leaning_low(before: float | None, seconds: float) -> float:
    """A mean of times that what comes between, which only ever adds to one, moves little."""
    if before is None:
        return seconds
    return before + (0.5 if seconds < before else 0.1) * (seconds - before)
