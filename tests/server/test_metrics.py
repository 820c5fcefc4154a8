"""GET /metrics: names and meanings of vLLM's and llama-server's metrics, and ours; also /slots."""

import asyncio
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from shutil import which
from typing import Any

import httpx
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from tests.conftest import PlanOnCpu
from tests.engine.harness import GREEDY, make_request, running
from tests.machine.test_device_readings import three_cards
from tests.patience import soon
from tests.planner.saved import local, saved_plan
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.live import app_of, in_process
from vram_llm import __version__
from vram_llm.engine.bucket_counts import BucketCounts, bounds_1_2_5
from vram_llm.engine.recent_load import LoadCounts, RecentLoad
from vram_llm.engine.request import FinishReason, TokenEvent
from vram_llm.engine.request_metrics import RequestMetrics
from vram_llm.engine.stats import STEP_TOKENS, EngineStats, with_earlier
from vram_llm.planner.types import Plan
from vram_llm.server.metrics.exposition import ServerCollector
from vram_llm.server.metrics.system_readings import SystemReadings
from vram_llm.units import GIB

VLLM = (
    "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info",
    "prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total", "prompt_tokens_total",
    "generation_tokens_total", "request_success_total", "spec_decode_num_drafts_total",
    "spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total",
    "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket",
    "request_time_per_output_token_seconds_bucket", "e2e_request_latency_seconds_bucket",
    "request_queue_time_seconds_bucket", "request_prefill_time_seconds_bucket",
    "request_decode_time_seconds_bucket", "request_inference_time_seconds_bucket",
    "request_prompt_tokens_bucket", "request_generation_tokens_bucket", "request_params_n_bucket",
    "request_params_max_tokens_bucket", "iteration_tokens_total_bucket",
)  # fmt: skip
LLAMA_SERVER = (
    "prompt_tokens_total", "prompt_tokens_cached_total", "prompt_seconds_total", "tokens_predicted_total",
    "tokens_predicted_seconds_total", "n_decode_total", "n_tokens_max", "spec_decode_num_draft_tokens_total",
    "spec_decode_num_accepted_tokens_total", "spec_decode_num_drafts_total", "prompt_tokens_seconds",
    "predicted_tokens_seconds", "requests_processing", "requests_deferred", "n_busy_slots_per_decode",
)  # fmt: skip

Samples = dict[str, dict[tuple[str, ...], float]]
"""Values by the sample's name and the values of its labels, in the order of the labels' names."""


def parsed(text: str) -> Samples:
    """The samples of an exposition."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            of_name = found.setdefault(sample.name, {})
            assert key not in of_name, f"{sample.name} {key} twice"
            of_name[key] = sample.value
    return found


async def scrape(client: httpx.AsyncClient) -> Samples:
    reply = await client.get("/metrics")
    assert reply.status_code == 200
    return parsed(reply.text)


def one(samples: Samples, name: str) -> float:
    (value,) = samples[name].values()
    return value


@pytest.fixture
def rig(connect: Connect, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> httpx.AsyncClient:
    """A client of a server with a plan over two of three cards."""
    monkeypatch.setitem(sys.modules, "pynvml", three_cards())
    engine.plan = saved_plan([local(0, uuid="GPU-2"), local(1, uuid="GPU-0")], [3, 2])
    return connect()


# -- names ---------------------------------------------------------------------------------------


async def test_the_start_is_in_llama_servers_header(rig: httpx.AsyncClient) -> None:
    reply = await rig.get("/metrics")
    assert int(reply.headers["process-start-time-unix"]) > 0


async def test_the_names_of_others_are_there(rig: httpx.AsyncClient) -> None:
    samples = await scrape(rig)
    assert [name for name in VLLM if f"vllm:{name}" not in samples] == []
    assert [name for name in LLAMA_SERVER if f"llamacpp:{name}" not in samples] == []
    assert samples["vllm:num_requests_running"] == {("0", "tiny"): 0}
    assert set(samples["vllm:request_success_total"]) == {
        ("0", reason, "tiny") for reason in ("stop", "length", "abort", "error")
    }


async def test_devices(rig: httpx.AsyncClient) -> None:
    samples = await scrape(rig)
    hot, cool = ("GPU0", local(0).name), ("GPU1", local(1).name)
    planned = samples["vram_llm:device_planned_bytes"]
    assert planned["GPU0", "weights", local(0).name] == 4 * GIB
    assert planned["GPU1", "reserve", local(1).name] == GIB
    assert planned["host", "weights", "host"] == 2 * GIB
    assert samples["vram_llm:device_utilization_ratio"] == {hot: 0.8, cool: 0.8}
    assert samples["vram_llm:device_power_watts"][hot] == 250
    throttled = samples["vram_llm:device_throttled"]
    assert {key for key, value in throttled.items() if value} == {
        ("GPU0", local(0).name, "power limit"),
        ("GPU0", local(0).name, "hardware thermal limit"),
    }
    assert samples["vram_llm:device_pcie_width"][cool] == 8
    assert samples["vram_llm:engine_state"]["ready",] == 1


async def test_what_is_unknown_is_left_out(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.plan = saved_plan([local(0, uuid="GPU-other", pci_bus_id=None)], [5])
    samples = await scrape(client)
    assert "vram_llm:device_temperature_celsius" not in samples
    assert "vram_llm:device_held_bytes" not in samples
    assert "vram_llm:device_planned_bytes" in samples


async def test_the_text_is_prometheus_clients(rig: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = dataclasses.replace(INFO, name='ti"n\\y\n')
    for n_steps in (1, 2**60):  # the second time the beginnings of lines are known
        engine.totals = EngineStats(n_steps=n_steps, llama_s=n_steps / 3)
        engine.metrics.histograms.end_to_end_s.observe(n_steps)
        collector, registry = ServerCollector(engine), CollectorRegistry()
        collector.reading = await SystemReadings().latest(None)
        registry.register(collector)
        ours, theirs = (await rig.get("/metrics")).text, generate_latest(registry).decode()
        assert _steady(ours) == _steady(theirs)


def _steady(text: str) -> list[tuple[str, float]]:
    """Lines and their values, without the host's memory, which changes."""
    lines = [line for line in text.splitlines() if not line.startswith("vram_llm:host_")]
    parts = [(line, "", "0") if line[0] == "#" else line.rpartition(" ") for line in lines]
    return [(start, float(value)) for start, _, value in parts]


async def test_openmetrics(rig: httpx.AsyncClient) -> None:
    reply = await rig.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    families = parse_openmetrics(reply.text)  # type: ignore[no-untyped-call]  # it has no types
    assert len(list(families)) > 60


@pytest.mark.process
@pytest.mark.skipif(which("promtool") is None, reason="promtool, which comes with Prometheus, is not here")
async def test_promtool_has_no_complaint_but_colons(rig: httpx.AsyncClient) -> None:
    """vLLM and llama-server have a colon after their names."""
    text = (await rig.get("/metrics")).content
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    lines = (result.stdout + result.stderr).decode().splitlines()
    assert [line for line in lines if "':'" not in line and not _is_of_others(line)] == []


def _is_of_others(line: str) -> bool:
    """Names that are not ours to choose."""
    return line.startswith(("vllm:", "llamacpp:"))


# -- meanings ------------------------------------------------------------------------------------


def event(name: str, *tokens: int, **more: Any) -> TokenEvent:
    return TokenEvent(id=name, token_ids=tokens, **more)


def test_times_of_a_request() -> None:
    """It arrives at 10 s, is submitted at 11, leaves the queue at 13, and has tokens at 14, 14.5 and 16."""
    metrics = RequestMetrics(4096)
    metrics.begin(make_request("a", arrived_at=10.0, max_tokens=30, n=2), 11.0)
    metrics.note_waiting(["a"], 11.5)
    assert [each.state for each in metrics.snapshots(frozenset(), 12.0)] == ["waiting"]
    metrics.note_waiting([], 13.0)
    assert [each.state for each in metrics.snapshots(frozenset(), 13.0)] == ["prefill"]
    metrics.note_events([event("a", 5, prompt_tokens=40, cached_tokens=32)], 14.0)
    metrics.note_tick(["a", "unknown"], 14.5)
    (now,) = metrics.snapshots(frozenset(), 15.0)
    assert (now.state, now.prompt_tokens, now.cached_tokens) == ("decode", 40, 32)
    assert (now.generated_tokens, now.age_s) == (2, 5.0)
    metrics.note_events([event("a", 6, 7, finish_reason=FinishReason.LENGTH)], 16.0)
    metrics.end("a", "abort", 17.0)  # it has ended
    found = metrics.histograms
    totals = {
        "time_to_first_token_s": 4.0, "inter_token_latency_s": 2.0, "time_per_output_token_s": 2.0 / 3,
        "end_to_end_s": 6.0, "queue_s": 2.0, "prefill_s": 1.0, "decode_s": 2.0, "inference_s": 3.0,
        "prompt_tokens": 40, "generation_tokens": 4, "max_tokens": 30, "choices": 2,
    }  # fmt: skip
    assert {name: getattr(found, name).total for name in totals} == pytest.approx(totals)
    assert found.inter_token_latency_s.count == 2
    assert metrics.endings == {"length": 1}
    assert (metrics.longest, list(metrics.snapshots(frozenset(), 17.0))) == (44, [])


def test_a_request_that_is_given_up_is_no_answer() -> None:
    metrics = RequestMetrics(4096)
    metrics.begin(make_request("a"), 1.0)
    metrics.note_tick(["a"], 2.0)
    metrics.end("a", "abort", 3.0)
    metrics.note_tick([], 4.0)  # a token that was under way
    found = metrics.histograms
    assert (found.time_to_first_token_s.count, found.inter_token_latency_s.count) == (1, 0)
    assert (found.end_to_end_s.count, metrics.endings) == (0, {"abort": 1})


@pytest.mark.parametrize(("value", "bucket"), [(0.5, 0), (1, 0), (1.5, 1), (5, 2), (5.1, 3)])
def test_a_bound_belongs_to_its_bucket(value: float, bucket: int) -> None:
    counts = BucketCounts([1, 2, 5])
    counts.observe(value, 3)
    assert counts.counts == [3 * (i == bucket) for i in range(4)]
    assert (counts.total, counts.count) == (3 * value, 3)


def test_bounds_of_lengths() -> None:
    assert bounds_1_2_5(300) == (1, 2, 5, 10, 20, 50, 100, 200)


def test_counters_go_on_after_a_restart_and_states_are_the_new_engines() -> None:
    first = EngineStats(n_steps=5, llama_s=1.5, n_running=3, n_cells=100, steps_by_tokens=(5,) + (0,) * 13)
    second = EngineStats(n_steps=2, llama_s=0.5, n_running=1, n_cells=50, steps_by_tokens=(0, 2) + (0,) * 12)
    both = with_earlier(second, first)
    assert (both.n_steps, both.llama_s, both.n_running, both.n_cells) == (7, 2.0, 1, 50)
    assert both.steps_by_tokens == (5, 2) + (0,) * (len(STEP_TOKENS) - 1)


@pytest.mark.parametrize(
    ("now", "rate"),
    [
        (101.0, 20.0),  # 20 tokens in the second since it began
        (104.0, 30.0),  # 120 in 4 s
        (108.0, 24.0),  # those after 103: 120 - 0
        (120.0, 0.0),
    ],
)
def test_rates_are_those_of_the_last_seconds(now: float, rate: float) -> None:
    load, samples = RecentLoad(100.0), [(101.0, 20), (104.0, 120), (106.0, 140)]
    counted = LoadCounts()
    for at, n_tokens in samples:
        if at <= now:
            counted = LoadCounts(generation_tokens=n_tokens, n_first=1, first_s=0.5)
            assert load.grows(at)
            load.note(counted, at)
    assert load.rates(counted, now).generation_tokens_per_s == pytest.approx(rate)


def test_the_last_tokens_before_a_pause_count_for_the_window_alone() -> None:
    load, counted = RecentLoad(100.0), LoadCounts(generation_tokens=1)
    assert load.grows(200.0)
    load.note(counted, 200.0)
    assert not load.grows(200.3)  # too early for another sample
    counted = LoadCounts(generation_tokens=10, n_later=9, later_s=0.3)
    assert load.rates(counted, 203.0).generation_tokens_per_s == pytest.approx(2.0)
    assert load.rates(counted, 206.0) == (0.0, 0.0, None, None, 0, 0)


# -- the real engine -----------------------------------------------------------------------------


async def ask(client: httpx.AsyncClient, i: int, stream: bool = False) -> dict[str, Any]:
    """An answer of 5 + i tokens to a prompt of 40 + i; its usage."""
    body = {
        "prompt": [1, *range(100, 139 + i)], "max_tokens": 5 + i, "temperature": 0, "ignore_eos": True,
        "stream": stream, "stream_options": {"include_usage": True} if stream else None,
    }  # fmt: skip
    reply = await client.post("/v1/completions", json=body)
    assert reply.status_code == 200
    if not stream:
        return dict(reply.json()["usage"])
    chunks = [line.removeprefix("data: ") for line in reply.text.split("\n") if "usage" in line]
    return dict(json.loads(chunks[-1])["usage"])


def check_load(samples: Samples, usages: Sequence[dict[str, Any]]) -> None:
    """The counters and the histograms' counts are exactly those of the answers."""
    n, n_prompt = len(usages), sum(usage["prompt_tokens"] for usage in usages)
    n_generated = sum(usage["completion_tokens"] for usage in usages)
    n_cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    n_later = n_generated - n - one(samples, "llamacpp:spec_decode_num_accepted_tokens_total")
    exact = {
        "vllm:prompt_tokens_total": n_prompt, "vllm:generation_tokens_total": n_generated,
        "vllm:prefix_cache_queries_total": n_prompt, "vllm:prefix_cache_hits_total": n_cached,
        "vllm:time_to_first_token_seconds_count": n, "vllm:e2e_request_latency_seconds_count": n,
        "vllm:request_queue_time_seconds_count": n, "vllm:request_prefill_time_seconds_count": n,
        "vllm:request_decode_time_seconds_count": n, "vllm:request_inference_time_seconds_count": n,
        "vllm:request_time_per_output_token_seconds_count": n, "vllm:request_params_n_count": n,
        "vllm:inter_token_latency_seconds_count": n_later,
        "vllm:request_prompt_tokens_sum": n_prompt, "vllm:request_generation_tokens_sum": n_generated,
        "vllm:request_params_max_tokens_sum": n_generated, "vllm:num_requests_running": 0,
        "vllm:iteration_tokens_total_count": one(samples, "llamacpp:n_decode_total"),
        "vllm:iteration_tokens_total_sum": n_prompt - n_cached + n_later,
        "llamacpp:prompt_tokens_total": n_prompt - n_cached, "llamacpp:tokens_predicted_total": n_generated,
        "llamacpp:n_tokens_max": max(usage["total_tokens"] for usage in usages),
        "vram_llm:computed_prompt_tokens_total": n_prompt - n_cached,
        "vram_llm:prefix_cache_saved_tokens_total": n_cached,
    }  # fmt: skip
    assert {name: one(samples, name) for name in exact} == exact
    assert samples["vllm:request_success_total"]["0", "length", "tiny"] == n
    assert sum(samples["vllm:request_success_total"].values()) == n


@pytest.fixture(scope="module")
def plan(plan_on_cpu: PlanOnCpu) -> Plan:
    return plan_on_cpu(n_ctx=8192)


@pytest.mark.process
async def test_counts_equal_those_of_a_load_run_also_after_a_restart(plan: Plan) -> None:
    async with running(plan) as engine, in_process(app_of(engine)) as client:
        usages = list(await soon(asyncio.gather(*(ask(client, i, i % 2 > 0) for i in range(8)))))
        before = await scrape(client)
        check_load(before, usages)
        parts = before["vram_llm:step_seconds_total"]
        assert all(seconds > 0 for seconds in parts.values())
        assert 0 < one(before, "llamacpp:prompt_seconds_total") < sum(parts.values()) * 8
        assert engine._process is not None
        engine._process.kill()
        usages += [await soon(ask(client, 9))]
        after = await scrape(client)
        check_load(after, usages)
        assert after["vram_llm:engine_restarts_total"] == {(): 1}
        assert [
            name
            for name, values in before.items()
            if name.endswith(("_total", "_count", "_bucket"))
            for key, value in values.items()
            if after[name][key] < value
        ] == []


@pytest.mark.process
async def test_slots_and_requests_that_are_given_up(plan: Plan) -> None:
    async with running(plan) as engine, in_process(app_of(engine)) as client:
        stream = engine.generate(make_request("a", prompt=(1, *range(50, 70)), max_tokens=4000))
        await soon(anext(stream))
        busy, *idle = (await client.get("/slots")).json()
        assert (busy["id"], busy["is_processing"], busy["id_task"]) == (0, True, "a")
        assert busy["next_token"][0]["n_decoded"] >= 1
        assert busy["params"] == {"max_tokens": 4000, "n_predict": 4000}
        assert [(slot["id"], slot["is_processing"]) for slot in idle] == [(i, False) for i in (1, 2, 3)]
        assert set(idle[0]) == {"id", "n_ctx", "speculative", "is_processing"}
        assert (await client.get("/slots?fail_on_no_slot=1")).status_code == 200
        await stream.aclose()
        samples = await scrape(client)
        assert samples["vllm:request_success_total"]["0", "abort", "tiny"] == 1
        assert one(samples, "vllm:e2e_request_latency_seconds_count") == 0


async def test_no_slot_is_free(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    for i in range(4):
        engine.metrics.begin(make_request(f"{i}", sampling=GREEDY), 0.0)
    assert (await client.get("/slots?fail_on_no_slot=1")).status_code == 503
    engine.metrics.end("1", "stop", 1.0)
    ids = [slot.get("id_task") for slot in (await client.get("/slots?fail_on_no_slot=1")).json()]
    assert ids == ["0", None, "2", "3"]


async def test_props_and_version(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    props = (await client.get("/props")).json()
    assert (props["endpoint_slots"], props["endpoint_metrics"]) == (True, True)
    assert (await client.get("/version")).json() == {"version": __version__}
