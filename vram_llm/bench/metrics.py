"""Figures of a load: throughput, latencies, goodput and peaks, as `vllm bench serve` computes them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from vram_llm.bench.outcome import RequestOutcome
from vram_llm.bench.run_load import LoadRun

LatencyName = Literal["ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue"]
LATENCY_NAMES: tuple[LatencyName, ...] = get_args(LatencyName)
_GAPS_SHARE = 99  # percent of a request's gaps that must be within the target of "itl"


@dataclass(frozen=True, slots=True)
class LoadLatency:
    """A latency over all requests, or all gaps, in milliseconds. `values_s` are seconds."""

    values_s: tuple[float, ...]

    @property
    def mean_ms(self) -> float:
        """The mean; 0 without values."""
        return float(np.mean(self.values_s or 0)) * 1000

    @property
    def std_ms(self) -> float:
        """The standard deviation; 0 without values."""
        return float(np.std(self.values_s or 0)) * 1000

    def percentile_ms(self, percent: float) -> float:
        """A percentile; 0 without values."""
        return float(np.percentile(self.values_s or 0, percent)) * 1000

    @property
    def median_ms(self) -> float:
        """The median; 0 without values."""
        return self.percentile_ms(50)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadMetrics:
    """The figures of one load. Tokens and rates count completed requests alone."""

    completed: int
    failed: int
    duration_s: float
    total_input_tokens: int
    total_output_tokens: int
    n_good: int | None
    """Requests within all targets; None without targets."""
    peak_output_tokens_per_s: float
    """Pieces in the fullest second."""
    peak_concurrent_requests: int
    latencies: Mapping[LatencyName, LoadLatency]

    @property
    def requests_per_s(self) -> float:
        """Completed requests per second."""
        return self.completed / self.duration_s

    @property
    def good_requests_per_s(self) -> float | None:
        """Requests within all targets per second: the goodput; None without targets."""
        return None if self.n_good is None else self.n_good / self.duration_s

    @property
    def output_tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return self.total_output_tokens / self.duration_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens of prompts and answers per second."""
        return (self.total_input_tokens + self.total_output_tokens) / self.duration_s


def metrics_of(run: LoadRun, targets_ms: Mapping[str, float] | None = None) -> LoadMetrics:
    """The figures of a run. `targets_ms`: the most milliseconds of each latency of a good request."""
    done = [outcome for outcome in run.outcomes if outcome.is_complete]
    seconds: dict[LatencyName, list[float]] = {
        "ttft": [outcome.ttft_s for outcome in done],
        "tpot": [tpot for outcome in done if (tpot := outcome.tpot_s) is not None],
        "itl": [gap for outcome in done for gap in outcome.gaps_s],
        "e2el": [outcome.latency_s for outcome in done],
        "client_queue_time": [outcome.queue_s for outcome in done],
        "e2el_including_client_queue": [outcome.queue_s + outcome.latency_s for outcome in done],
    }
    return LoadMetrics(
        completed=len(done),
        failed=len(run.outcomes) - len(done),
        duration_s=run.duration_s,
        total_input_tokens=sum(outcome.prompt_tokens for outcome in done),
        total_output_tokens=sum(outcome.n_output for outcome in done),
        n_good=sum(_is_good(outcome, targets_ms) for outcome in done) if targets_ms else None,
        peak_output_tokens_per_s=_peak_rate(done),
        peak_concurrent_requests=_peak_concurrency(done),
        latencies={name: LoadLatency(tuple(values)) for name, values in seconds.items()},
    )


def _is_good(outcome: RequestOutcome, targets_ms: Mapping[str, float]) -> bool:
    gaps = outcome.gaps_s
    reached_s = {
        "ttft": outcome.ttft_s,
        "tpot": outcome.tpot_s or 0.0,
        "itl": float(np.percentile(gaps, _GAPS_SHARE)) if gaps else 0.0,
        "e2el": outcome.latency_s,
    }
    return all(reached_s[name] * 1000 <= most_ms for name, most_ms in targets_ms.items())


def _peak_rate(done: Sequence[RequestOutcome]) -> float:
    """The most pieces in one of the seconds since the first request was sent."""
    if not done:
        return 0.0
    first = min(outcome.asked_at for outcome in done)
    seconds = np.array([math.floor(time - first) for outcome in done for time in outcome.token_times])
    return float(np.bincount(seconds).max())


def _peak_concurrency(done: Sequence[RequestOutcome]) -> int:
    """The most requests at the server at a time; one that ends as another begins does not overlap it."""
    events = [(outcome.asked_at, 1) for outcome in done]
    events += [(outcome.token_times[-1], -1) for outcome in done]
    return max((int(n) for n in np.cumsum([step for _, step in sorted(events)])), default=0)
