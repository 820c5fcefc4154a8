"""The knee of a server: the load beyond which more requests at a time cost more latency than they bring.

Without targets the knee is where Kleinrock's power, throughput / latency, is greatest: beyond it twice the
load brings less than 1.41 times the throughput. With targets it is the greatest load at which 90% of the
requests are within all of them, as DistServe counts goodput.
"""

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vram_llm.bench.load_test import LoadedServer, LoadResult, LoadTest
from vram_llm.bench.metrics import LoadMetrics

_MOST = 256  # requests at a time
_REQUESTS_A_LOAD = 4  # times the load
_GAIN = 1.05  # of throughput by twice the load; with less the server is full
_GOOD_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """A load, in requests at a time, and its figures."""

    concurrency: int
    metrics: LoadMetrics

    @property
    def power(self) -> float:
        """Tokens per second, per second of a request's mean latency."""
        latency_ms = self.metrics.latencies["e2el"].mean_ms
        return self.metrics.output_tokens_per_s / latency_ms if latency_ms else 0.0

    @property
    def good_share(self) -> float | None:
        """Requests within all targets, of all; None without targets."""
        n = self.metrics.completed + self.metrics.failed
        return None if self.metrics.n_good is None else self.metrics.n_good / max(n, 1)

    @property
    def is_answered(self) -> bool:
        """Whether the server answered enough of the requests, and did not refuse them."""
        n = self.metrics.completed + self.metrics.failed
        return self.metrics.completed >= _GOOD_SHARE * max(n, 1)

    @property
    def is_good(self) -> bool:
        """Whether enough requests are within the targets."""
        return self.good_share is not None and self.good_share >= _GOOD_SHARE


def knee(points: Sequence[LoadPoint]) -> LoadPoint | None:
    """The knee among the loads that were measured; None if no load meets the targets, or is answered."""
    if all(point.good_share is None for point in points):
        answered = [point for point in points if point.is_answered]
        return max(answered, key=lambda point: point.power, default=None)
    below_first_bad = []
    for point in sorted(points, key=lambda point: point.concurrency):
        if not point.is_good:
            break
        below_first_bad.append(point)
    return below_first_bad[-1] if below_first_bad else None


def next_load(points: Sequence[LoadPoint], most: int) -> int | None:
    """The load to measure next: twice the last, until the server is full; then one next to the knee.

    None: the knee is known to a fifth, or no load is good.
    """
    if not points:
        return 1
    by_load = sorted(points, key=lambda point: point.concurrency)
    last = by_load[-1]
    if last.concurrency < most and not _is_past_knee(by_load):
        return min(2 * last.concurrency, most)
    best = knee(by_load)
    if best is None:
        return None
    loads = [point.concurrency for point in by_load]
    around = loads[max(loads.index(best.concurrency) - (best.good_share is None), 0) :][:3]
    for low, high in itertools.pairwise(around):
        middle = round(math.sqrt(low * high))
        if low < middle < high and high / low > 1.2 * 1.2:
            return middle
    return None


def _is_past_knee(by_load: Sequence[LoadPoint]) -> bool:
    """Whether the last load misses the targets, is refused, or brings little more than the one before."""
    last = by_load[-1]
    if last.good_share is not None:
        return not last.is_good
    if not last.is_answered:
        return True
    if len(by_load) < 2:
        return False
    return last.metrics.output_tokens_per_s < _GAIN * by_load[-2].metrics.output_tokens_per_s


async def sweep(
    server: LoadedServer, test: LoadTest, on_point: Callable[[LoadPoint, LoadResult], None]
) -> tuple[LoadPoint, ...]:
    """Measure loads until the knee is known, ascending. `on_point` gets each as it is measured.

    A load has four requests for each one at a time, at most `test.n_prompts`. A cancellation ends the sweep;
    the load it interrupts is left out. Raises ServerUnreachable, RequestError, BadPromptFile.
    """
    most = min(test.shape.max_concurrency or _MOST, test.n_prompts)
    points: list[LoadPoint] = []
    try:
        await server.warm_up(await server.prompts(test.n_warmups, test.seed), test.shape)
        while (load := next_load(points, most)) is not None:
            n = min(test.n_prompts, _REQUESTS_A_LOAD * load)
            prompts = await server.prompts(n, test.seed + load)
            shape = replace(test.shape, max_concurrency=load)
            result = await server.load(prompts, shape, f"{load} at a time")
            if result.run.was_interrupted:
                break
            points.append(LoadPoint(load, result.metrics))
            on_point(points[-1], result)
    except asyncio.CancelledError:
        if not points:
            raise
    return tuple(sorted(points, key=lambda point: point.concurrency))
