"""Figures of loads whose times are handed in."""

import math

import pytest

from vram_llm.bench.metrics import metrics_of
from vram_llm.bench.outcome import RequestOutcome
from vram_llm.bench.run_load import LoadRun


def outcome(
    asked_at: float, *token_times: float, n_tokens: int | None = None, error: str = ""
) -> RequestOutcome:
    return RequestOutcome(10, asked_at - 0.5, asked_at, list(token_times), n_tokens, error=error)


EVEN = outcome(100.0, 100.2, 100.3, 100.4)  # TTFT 200 ms, TPOT 100 ms, E2EL 400 ms
SLOW = outcome(100.1, 101.1, 101.15, 101.75)  # 1000 ms, 325 ms, 1650 ms
ONE = outcome(101.0, 101.05)  # 50 ms, no TPOT
PAIRS = outcome(102.0, 102.1, 102.3, n_tokens=5)  # two pieces, five tokens: TPOT 50 ms
FAILED = outcome(100.0, 100.9, error="gone")
RUN = LoadRun((EVEN, SLOW, FAILED, ONE, PAIRS), duration_s=4.0)


def test_counts_and_rates() -> None:
    metrics = metrics_of(RUN)
    assert (metrics.completed, metrics.failed) == (4, 1)
    assert (metrics.total_input_tokens, metrics.total_output_tokens) == (40, 12)
    assert metrics.requests_per_s == 1.0
    assert metrics.output_tokens_per_s == 3.0
    assert metrics.tokens_per_s == 13.0
    assert metrics.good_requests_per_s is None


def test_latencies() -> None:
    latencies = metrics_of(RUN).latencies
    assert latencies["ttft"].values_s == pytest.approx((0.2, 1.0, 0.05, 0.1))
    assert latencies["tpot"].values_s == pytest.approx((0.1, 0.325, 0.05))
    assert latencies["itl"].values_s == pytest.approx((0.1, 0.1, 0.05, 0.6, 0.2))
    assert latencies["e2el"].values_s == pytest.approx((0.4, 1.65, 0.05, 0.3))
    assert latencies["client_queue_time"].values_s == pytest.approx((0.5,) * 4)
    assert latencies["e2el_including_client_queue"].mean_ms == pytest.approx(1100)
    assert latencies["ttft"].mean_ms == pytest.approx(337.5)
    assert latencies["ttft"].median_ms == pytest.approx(150)
    assert latencies["ttft"].percentile_ms(75) == pytest.approx(400)  # numpy's: between 200 and 1000
    assert latencies["tpot"].std_ms == pytest.approx(119.61, abs=0.01)


def test_peaks() -> None:
    metrics = metrics_of(RUN)
    assert metrics.peak_output_tokens_per_s == 4  # of the second after 101.0, counted from 100.0
    assert metrics.peak_concurrent_requests == 2
    after_each_other = LoadRun((outcome(0.0, 1.0), outcome(1.0, 2.0)), 2.0)
    assert metrics_of(after_each_other).peak_concurrent_requests == 1


@pytest.mark.parametrize(
    ("targets_ms", "n_good"),
    [
        ({"ttft": 200.001}, 3),
        ({"ttft": 199.9}, 2),
        ({"tpot": 60.0}, 2),  # an answer of one token has none
        ({"ttft": 250.0, "tpot": 60.0}, 2),
        ({"itl": 100.001}, 2),
        ({"e2el": 300.001}, 2),
        ({"e2el": 0.0}, 0),
    ],
)
def test_goodput(targets_ms: dict[str, float], n_good: int) -> None:
    metrics = metrics_of(RUN, targets_ms)
    assert metrics.n_good == n_good
    assert metrics.good_requests_per_s == n_good / 4.0


def test_no_request_completed() -> None:
    metrics = metrics_of(LoadRun((FAILED,), 1.0), {"ttft": 1.0})
    assert (metrics.completed, metrics.failed, metrics.n_good) == (0, 1, 0)
    assert metrics.peak_concurrent_requests == metrics.peak_output_tokens_per_s == 0
    assert not any(latency.median_ms or math.isnan(latency.mean_ms) for latency in metrics.latencies.values())
