"""Use and limits of a key: requests and sequences in flight, requests and tokens a minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vram_llm.errors import RequestError
from vram_llm.server.errors import RateLimited
from vram_llm.server.keys_file import NO_LIMITS, KeyLimits

Clock = Callable[[], float]  # seconds
ExpectedWait = Callable[[int], float]  # seconds until that many of the key's sequences have ended


@dataclass(slots=True)
class TokenBucket:
    """`per_minute` units, which come back evenly. A whole minute's may be spent at once."""

    per_minute: int
    level: float  # below 0: more was spent than there was
    at: float

    def spend(self, n: float, now: float) -> None:
        """Spend `n` units."""
        self.level = self._now(now) - n
        self.at = now

    def seconds_until(self, n: float, now: float) -> float:
        """The time until there are `n` units; 0: there are."""
        return max(n - self._now(now), 0.0) * 60 / self.per_minute

    def _now(self, now: float) -> float:
        return min(self.level + (now - self.at) * self.per_minute / 60, self.per_minute)


@dataclass(slots=True)
class KeyUsage:
    """Counts of one key."""

    limits: KeyLimits = NO_LIMITS
    clock: Clock = time.monotonic
    n_requests: int = 0  # in flight
    n_sequences: int = 0
    _requests: TokenBucket | None = field(init=False, default=None)
    _tokens: TokenBucket | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.change(self.limits)

    @property
    def is_unlimited(self) -> bool:
        """Whether neither its sequences nor its tokens need to be counted."""
        return self.limits.max_sequences is None and self._tokens is None

    def change(self, limits: KeyLimits) -> None:
        """Obey other limits from now on. Allowances start full."""
        if limits.requests_per_minute != (self._requests and self._requests.per_minute):
            self._requests = self._full(limits.requests_per_minute)
        if limits.tokens_per_minute != (self._tokens and self._tokens.per_minute):
            self._tokens = self._full(limits.tokens_per_minute)
        self.limits = limits

    @contextmanager
    def request(self, wait_s: ExpectedWait) -> Iterator[None]:
        """Count a request while it is in flight. Raises RateLimited."""
        now, most = self.clock(), self.limits.max_requests
        if most is not None and self.n_requests >= most:
            raise _refusal(
                f"{self.n_requests} of its requests are in flight and {most} is the most", wait_s(1)
            )
        for allowance, unit in ((self._requests, "requests"), (self._tokens, "tokens")):
            if allowance is not None and (seconds := allowance.seconds_until(1, now)):
                raise _refusal(f"its {allowance.per_minute:,} {unit} a minute are used up", seconds)
        if self._requests is not None:
            self._requests.spend(1, now)
        self.n_requests += 1
        try:
            yield
        finally:
            self.n_requests -= 1

    @contextmanager
    def sequences(self, n: int, wait_s: ExpectedWait) -> Iterator[None]:
        """Count `n` sequences of one request. Raises RateLimited; RequestError if they are never allowed."""
        most = self.limits.max_sequences
        if most is not None and n > most:
            raise RequestError(
                f"this request asks for {n} answers and the API key may have {most} at once", "n"
            )
        if most is not None and (over := self.n_sequences + n - most) > 0:
            in_flight = f"{self.n_sequences} of its answers are in flight"
            raise _refusal(f"{in_flight}, this request has {n} and {most} is the most", wait_s(over))
        self.n_sequences += n
        try:
            yield
        finally:
            self.n_sequences -= n

    def spend(self, n_tokens: int) -> None:
        """Count tokens that were computed."""
        if self._tokens is not None:
            self._tokens.spend(n_tokens, self.clock())

    def _full(self, per_minute: int | None) -> TokenBucket | None:
        return None if per_minute is None else TokenBucket(per_minute, per_minute, self.clock())


def _refusal(reason: str, retry_after_s: float) -> RateLimited:
    return RateLimited(f"limit of this API key: {reason}; try again in {retry_after_s:.1f} s", retry_after_s)
