"""vLLM's table to the character, and its keys."""

import math
from datetime import datetime

from tests.bench.test_metrics import RUN
from vram_llm.bench.arrivals import LoadShape
from vram_llm.bench.metrics import LATENCY_NAMES, metrics_of
from vram_llm.bench.report import DETAILS, LoadReport, ResultHeading

# Printed by vllm/benchmarks/serve.py for these figures; it fills each row with spaces to 51 columns.
TABLE = """\
============ Serving Benchmark Result ============
Successful requests:                     4
Failed requests:                         1
Maximum request concurrency:             8
Request rate configured (RPS):           2.00
Benchmark duration (s):                  4.00
Total input tokens:                      40
Total generated tokens:                  12
Request throughput (req/s):              1.00
Request goodput (req/s):                 0.75
Output token throughput (tok/s):         3.00
Peak output token throughput (tok/s):    4.00
Peak concurrent requests:                2.00
Total token throughput (tok/s):          13.00
---------------Time to First Token----------------
Mean TTFT (ms):                          337.50
Median TTFT (ms):                        150.00
P99 TTFT (ms):                           976.00
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          158.33
Median TPOT (ms):                        100.00
P99 TPOT (ms):                           320.50
---------------Inter-token Latency----------------
Mean ITL (ms):                           210.00
Median ITL (ms):                         100.00
P99 ITL (ms):                            584.00
==================================================
"""
OF_A_RUN = (
    "date endpoint_type backend label model_id tokenizer_id num_prompts request_rate burstiness "
    "max_concurrency duration completed failed total_input_tokens total_output_tokens "
    "request_throughput request_goodput "
    "output_throughput total_token_throughput latencies queue_times max_output_tokens_per_s "
    "max_concurrent_requests rtfx "
    "mean_ttft_ms median_ttft_ms std_ttft_ms p99_ttft_ms mean_tpot_ms median_tpot_ms std_tpot_ms p99_tpot_ms "
    "mean_itl_ms median_itl_ms std_itl_ms p99_itl_ms"
)  # vLLM's keys without --save-detailed
HEADING = ResultHeading(
    model="org/some-model", backend="openai", label=None, n_prompts=5, metadata={"tp": "1"}
)
NOW = datetime(2026, 11, 30, 13, 5, 9)


def test_the_table() -> None:
    report = LoadReport(shape=LoadShape(max_concurrency=8, request_rate=2.0))
    assert list(report.table(metrics_of(RUN, {"ttft": 201.0}))) == [
        line if line[0] in "=-" else f"{line:<51}" for line in TABLE.splitlines()
    ]


def test_rows_that_depend_on_options() -> None:
    metrics = metrics_of(RUN)
    plain = list(LoadReport(shape=LoadShape()).table(metrics))
    assert not any("concurrency" in line or "RPS" in line or "goodput" in line for line in plain)
    every = LoadReport(
        shape=LoadShape(max_concurrency=8, request_rate=2.0), latencies=LATENCY_NAMES, percentiles=(50, 99.9)
    )
    lines = list(every.table(metrics))
    titles = [line for line in lines if line.startswith("-")]
    assert titles[3:] == [
        "----------------End-to-end Latency----------------",
        "---------------Client-side Queueing---------------",
        "--------Queue-inclusive End-to-end Latency--------",
    ]
    assert "P50 E2EL (ms):                           350.00    " in lines
    assert any(line.startswith("P99.9 E2EL incl. Client Queue (ms):      ") for line in lines)
    at_once = LoadReport(shape=LoadShape(max_concurrency=8), latencies=LATENCY_NAMES)
    assert not any("incl. Client Queue" in line for line in at_once.table(metrics))


def test_the_keys_of_a_result_file() -> None:
    shape = LoadShape(max_concurrency=8)
    report = LoadReport(shape=shape)
    found = HEADING.keys(shape, NOW) | report.saved(RUN, metrics_of(RUN))
    assert set(found) == {*OF_A_RUN.split(), *DETAILS, "tp"}
    assert found["date"] == "20261130-130509"
    assert found["request_rate"] == "inf"
    assert found["output_lens"] == [3, 3, 0, 1, 5]
    assert found["errors"] == ["", "", "gone", "", ""]
    assert found["request_goodput"] is None
    assert [len(gaps) for gaps in found["itls"]] == [2, 2, 0, 0, 1]


def test_the_name_of_a_result_file() -> None:
    at_once = HEADING.file_name(LoadShape(max_concurrency=8), NOW)
    assert at_once == "openai-infqps-concurrency8-some-model-20261130-130509.json"
    assert HEADING.file_name(LoadShape(request_rate=2.0, burstiness=math.inf), NOW) == (
        "openai-2.0qps-some-model-20261130-130509.json"
    )
