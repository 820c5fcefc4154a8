"""The result as `vllm bench serve` prints it and saves it: the same rows, in the same columns, the same keys.

The form is that of vllm/benchmarks/serve.py of 2026-11. vLLM before 0.12 wrote "Total Token throughput".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vram_llm.bench.arrivals import LoadShape
from vram_llm.bench.metrics import LatencyName, LoadMetrics
from vram_llm.bench.run_load import LoadRun

_WIDTH = 50
_TITLES: Mapping[LatencyName, tuple[str, str]] = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
    "client_queue_time": ("Client Queue Time", "Client-side Queueing"),
    "e2el_including_client_queue": ("E2EL incl. Client Queue", "Queue-inclusive End-to-end Latency"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """A load and the figures to print and save: which latencies, and which percentiles of them."""

    shape: LoadShape
    latencies: Sequence[LatencyName] = ("ttft", "tpot", "itl")
    percentiles: Sequence[float] = (99.0,)

    def table(self, metrics: LoadMetrics) -> Iterator[str]:
        """The lines of vLLM's table."""
        yield f"{' Serving Benchmark Result ':=^{_WIDTH}}"
        yield _row("Successful requests:", metrics.completed)
        yield _row("Failed requests:", metrics.failed)
        if self.shape.max_concurrency is not None:
            yield _row("Maximum request concurrency:", self.shape.max_concurrency)
        if not math.isinf(self.shape.request_rate):
            yield _row("Request rate configured (RPS):", self.shape.request_rate)
        yield _row("Benchmark duration (s):", metrics.duration_s)
        yield _row("Total input tokens:", metrics.total_input_tokens)
        yield _row("Total generated tokens:", metrics.total_output_tokens)
        yield _row("Request throughput (req/s):", metrics.requests_per_s)
        if metrics.good_requests_per_s is not None:
            yield _row("Request goodput (req/s):", metrics.good_requests_per_s)
        yield _row("Output token throughput (tok/s):", metrics.output_tokens_per_s)
        yield _row("Peak output token throughput (tok/s):", metrics.peak_output_tokens_per_s)
        yield _row("Peak concurrent requests:", float(metrics.peak_concurrent_requests))
        yield _row("Total token throughput (tok/s):", metrics.tokens_per_s)
        for name in self._shown():
            short, title = _TITLES[name]
            latency = metrics.latencies[name]
            yield f"{title:-^{_WIDTH}}"
            yield _row(f"Mean {short} (ms):", latency.mean_ms)
            yield _row(f"Median {short} (ms):", latency.median_ms)
            for percent in self.percentiles:
                yield _row(f"P{_number(percent)} {short} (ms):", latency.percentile_ms(percent))
        yield "=" * _WIDTH

    def saved(self, run: LoadRun, metrics: LoadMetrics) -> dict[str, Any]:
        """vLLM's keys of the results. Latencies are milliseconds, lists of each request are seconds."""
        outcomes = run.outcomes
        found: dict[str, Any] = {
            "duration": metrics.duration_s,
            "completed": metrics.completed,
            "failed": metrics.failed,
            "total_input_tokens": metrics.total_input_tokens,
            "total_output_tokens": metrics.total_output_tokens,
            "request_throughput": metrics.requests_per_s,
            "request_goodput": metrics.good_requests_per_s,
            "output_throughput": metrics.output_tokens_per_s,
            "total_token_throughput": metrics.tokens_per_s,
            "input_lens": [outcome.prompt_tokens for outcome in outcomes],
            "output_lens": [outcome.n_output for outcome in outcomes],
            "ttfts": [outcome.ttft_s for outcome in outcomes],
            "itls": [outcome.gaps_s for outcome in outcomes],
            "latencies": [outcome.latency_s for outcome in outcomes],
            "start_times": [outcome.asked_at for outcome in outcomes],
            "queue_times": [outcome.queue_s for outcome in outcomes],
            "generated_texts": [outcome.text for outcome in outcomes],
            "errors": [outcome.error for outcome in outcomes],
            "max_output_tokens_per_s": metrics.peak_output_tokens_per_s,
            "max_concurrent_requests": metrics.peak_concurrent_requests,
            "rtfx": 0.0,  # of speech recognition
        }
        for name in self._shown():
            latency = metrics.latencies[name]
            found[f"mean_{name}_ms"] = latency.mean_ms
            found[f"median_{name}_ms"] = latency.median_ms
            found[f"std_{name}_ms"] = latency.std_ms
            for percent in self.percentiles:
                found[f"p{_number(percent)}_{name}_ms"] = latency.percentile_ms(percent)
        return found

    def _shown(self) -> Iterator[LatencyName]:
        """The latencies asked for, in vLLM's order. Queues are known where a bound makes requests wait."""
        for name in _TITLES:
            needs_bound = name in ("client_queue_time", "e2el_including_client_queue")
            needs_rate = name == "e2el_including_client_queue"
            if (
                name in self.latencies
                and not (needs_bound and self.shape.max_concurrency is None)
                and not (needs_rate and math.isinf(self.shape.request_rate))
            ):
                yield name


DETAILS = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "generated_texts", "errors")
"""Keys with a value for each request, which vLLM saves with --save-detailed alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultHeading:
    """The fields of vLLM's result file that come before the figures."""

    model: str
    backend: str
    label: str | None
    n_prompts: int
    metadata: Mapping[str, str]

    def keys(self, shape: LoadShape, now: datetime) -> dict[str, Any]:
        """vLLM's keys, in its order."""
        return {
            "date": now.strftime("%Y%m%d-%H%M%S"),
            "endpoint_type": self.backend,
            "backend": self.backend,
            "label": self.label,
            "model_id": self.model,
            "tokenizer_id": self.model,
            "num_prompts": self.n_prompts,
            **self.metadata,
            "request_rate": "inf" if math.isinf(shape.request_rate) else shape.request_rate,
            "burstiness": "inf" if math.isinf(shape.burstiness) else shape.burstiness,
            "max_concurrency": shape.max_concurrency,
        }

    def file_name(self, shape: LoadShape, now: datetime) -> str:
        """vLLM's name of a result file without --result-filename."""
        bound = "" if shape.max_concurrency is None else f"-concurrency{shape.max_concurrency}"
        name = self.model.rsplit("/", 1)[-1]
        when = now.strftime("%Y%m%d-%H%M%S")
        return f"{self.label or self.backend}-{shape.request_rate}qps{bound}-{name}-{when}.json"


def _row(name: str, value: float) -> str:
    return f"{name:<40} {value:<10.2f}" if isinstance(value, float) else f"{name:<40} {value:<10}"


def _number(percent: float) -> str:
    return str(int(percent)) if int(percent) == percent else str(percent)
