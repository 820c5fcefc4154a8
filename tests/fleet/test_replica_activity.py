"""Facts of several engines as those of one."""

import dataclasses

import pytest

from tests.planner.saved import local, saved_plan
from tests.server.fake_engine import INFO, FakeEngine
from vram_llm.engine.bucket_counts import BucketCounts
from vram_llm.engine.recent_load import RecentRates
from vram_llm.engine.request import EmbeddingRequest
from vram_llm.engine.stats import EngineStats
from vram_llm.fleet.replica_activity import joint_activity, joint_info, joint_plan
from vram_llm.planner.estimates import MemoryUse


def test_slots_are_added_and_every_replica_takes_a_prompt() -> None:
    small = dataclasses.replace(
        INFO, n_ctx=256, parallel=2, max_prompt_bytes=900, memory={"A": MemoryUse(1), "B": MemoryUse(2)}
    )
    info = joint_info([dataclasses.replace(INFO, memory={"B": MemoryUse(2)}), small])
    assert (info.n_ctx, info.parallel, info.max_prompt_bytes) == (256, 6, 900)
    assert info.memory == {"A": MemoryUse(1), "B": MemoryUse(4)}


def test_counts_are_added_and_times_are_averages() -> None:
    one, other = FakeEngine(), FakeEngine()
    one.totals = EngineStats(n_steps=3, n_running=1, steps_by_tokens=(1,) * 14)
    other.totals = EngineStats(n_steps=4, n_running=2, steps_by_tokens=(2,) * 14)
    for engine, name in ((one, "a"), (other, "b")):
        engine.metrics.begin(EmbeddingRequest(id=name, inputs=("x",)), 1.0)
    other.metrics.note_embedded("b", 300, 2.0)
    activities = [
        dataclasses.replace(one.activity, recent=RecentRates(1.0, 2.0, 0.1, None, 3, 0), uptime_s=5.0),
        dataclasses.replace(
            other.activity, recent=RecentRates(1.0, 2.0, 0.5, 0.2, 1, 9), n_restarts=2, pid=7
        ),
    ]
    joint = joint_activity(activities)
    assert (joint.totals.n_steps, joint.totals.n_running, joint.totals.steps_by_tokens[0]) == (7, 3, 3)
    assert joint.recent == pytest.approx((2.0, 4.0, 0.2, 0.2, 4, 9))
    assert (joint.n_restarts, joint.pid, joint.uptime_s, joint.longest) == (2, 7, 5.0, 300)
    assert [request.id for request in joint.requests] == ["a"]
    assert joint.endings == {"stop": 1}
    assert joint.histograms.prompt_tokens.total == 300


def test_histograms_of_unlike_contexts() -> None:
    short, long = BucketCounts((1, 2, 5)), BucketCounts((1, 2, 5, 10, 20))
    short.observe(6)
    long.observe(6)
    long.observe(30)
    short.add(long)
    assert (short.bounds, short.counts) == ((1, 2, 5, 10, 20), [0, 0, 0, 2, 0, 1])


def test_the_plan_for_reports_has_the_devices_of_all() -> None:
    plan = joint_plan([saved_plan([local(0)], [4]), saved_plan([local(1)], [4])])
    assert [device.id for device in plan.devices] == ["GPU0", "GPU1"]
    assert [device.id for device in plan.estimate.devices] == ["GPU0", "GPU1"]
    assert plan.context.parallel == 2 * saved_plan([], [], n_layers=4).context.parallel
    assert plan.used == ("GPU0", "GPU1")
    assert [plan.placement.first_and_last(device) for device in plan.used] == [(0, 3), None]
