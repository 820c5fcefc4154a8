"""Two servers measured in turn, so that a busy machine harms both, and ratios of their figures."""

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vram_llm.bench.load_test import LoadedServer, LoadResult, LoadTest
from vram_llm.bench.metrics import LoadMetrics

FIGURES: Mapping[str, Callable[[LoadMetrics], float]] = {
    "Request throughput (req/s)": lambda metrics: metrics.requests_per_s,
    "Output token throughput (tok/s)": lambda metrics: metrics.output_tokens_per_s,
    "Median TTFT (ms)": lambda metrics: metrics.latencies["ttft"].median_ms,
    "P99 TTFT (ms)": lambda metrics: metrics.latencies["ttft"].percentile_ms(99),
    "Median TPOT (ms)": lambda metrics: metrics.latencies["tpot"].median_ms,
    "Median ITL (ms)": lambda metrics: metrics.latencies["itl"].median_ms,
    "P99 ITL (ms)": lambda metrics: metrics.latencies["itl"].percentile_ms(99),
}


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of two servers: the value of each round, and the ratios of the rounds, second to first."""

    name: str
    first: tuple[float, ...]
    second: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Second to first, of each round in which the first is not 0."""
        return tuple(two / one for one, two in zip(self.first, self.second, strict=True) if one)

    @property
    def ratio(self) -> float | None:
        """The median ratio; None without one."""
        return statistics.median(self.ratios) if self.ratios else None


def compared(rounds: Sequence[tuple[LoadMetrics, LoadMetrics]]) -> tuple[ComparedFigure, ...]:
    """Each figure of the rounds, which are pairs of the first and the second server's."""
    return tuple(
        ComparedFigure(name, tuple(of(one) for one, _ in rounds), tuple(of(two) for _, two in rounds))
        for name, of in FIGURES.items()
    )


async def compare(
    servers: tuple[LoadedServer, LoadedServer], test: LoadTest, n_rounds: int
) -> tuple[tuple[LoadResult, LoadResult], ...]:
    """Measure both in each round, every second round the second one first.

    Both get prompts of the same seed, and other ones in each round. A cancellation ends the comparison
    with the rounds that are complete. Raises ServerUnreachable, RequestError, BadPromptFile.
    """
    rounds: list[tuple[LoadResult, LoadResult]] = []
    try:
        for server in servers:
            await server.warm_up(await server.prompts(test.n_warmups, test.seed), test.shape)
        while (i := len(rounds)) < n_rounds:
            rounds.append(await _round(servers, test, i, f"round {i + 1} of {n_rounds}"))
    except asyncio.CancelledError:
        if not rounds:
            raise
    return tuple(rounds)


async def _round(
    servers: tuple[LoadedServer, LoadedServer], test: LoadTest, i: int, name: str
) -> tuple[LoadResult, LoadResult]:
    """Raises CancelledError if a load is interrupted."""
    results: dict[int, LoadResult] = {}
    for which in (0, 1) if i % 2 == 0 else (1, 0):
        server = servers[which]
        prompts = await server.prompts(test.n_prompts, test.seed + 1 + i)
        results[which] = await server.load(prompts, test.shape, f"{name}: {server.client.url}")
        if results[which].run.was_interrupted:
            raise asyncio.CancelledError
    return results[0], results[1]
