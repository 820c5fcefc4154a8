"""When requests arrive: all at once, or as a Poisson process, or with gaps of a gamma distribution."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadShape:
    """How much is asked at a time.

    `request_rate` is requests per second; infinite: all are due at once. `burstiness` is the shape of the
    gamma distribution of gaps between requests: 1 is a Poisson process, less is burstier, infinite is even.
    `max_concurrency` bounds the requests at the server; None: unbounded.
    """

    max_concurrency: int | None = None
    request_rate: float = math.inf
    burstiness: float = 1.0


def arrival_times(n: int, shape: LoadShape, seed: int) -> list[float]:
    """Seconds from the start at which `n` requests are due, ascending.

    As in `vllm bench serve` they are stretched so that the last is due at n / rate: the rate is met exactly.
    """
    rate, burstiness = shape.request_rate, shape.burstiness
    if math.isinf(rate):
        return [0.0] * n
    if math.isinf(burstiness):
        gaps = np.full(n, 1 / rate)
    else:
        gaps = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness), n)
    due = np.cumsum(gaps)
    return [float(each) for each in due * (n / rate / due[-1])]
