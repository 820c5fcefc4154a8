"""What-if plans by the process that the server asks."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests import zoo
from tests.conftest import PlanOnCpu
from vram_llm.errors import RequestError, RequestTimeout
from vram_llm.machine.types import Host, Machine
from vram_llm.machine.what_if import parse_rigs
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Plan, Workload
from vram_llm.server.ui.plan_fields import PlanFields
from vram_llm.units import GIB
from vram_llm.workflows.detection import analyze
from vram_llm.workflows.what_if.order import carry_out
from vram_llm.workflows.what_if.planner import WhatIfProcess, order_for

HOST = Host(name="desk", cores=8, total_bytes=64 * GIB, available_bytes=60 * GIB)
RIG = "RTX 4090 + 2x RTX 3060 12GB"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zoo") / "49b.gguf"
    zoo.write(zoo.nemotron_49b(), path, "Q4_K")
    return path


@pytest.fixture(scope="module")
def plan(path: Path) -> Plan:
    return planned(path, RIG, n_ctx=16384)


def planned(path: Path, *rigs: str, **workload: Any) -> Plan:
    machine = Machine(devices=parse_rigs(rigs).devices, host=HOST)
    return make_plan(analyze(str(path)), machine, Workload(**workload))


def test_a_question_that_changes_nothing_gives_the_served_plan(plan: Plan) -> None:
    reply = carry_out(order_for(plan, PlanFields()))
    by_id = {use.id: use for use in plan.estimate.devices}
    for device, planned in zip(reply.devices, plan.devices, strict=True):
        use = by_id.get(planned.id)
        assert device.planned.weights_bytes == (use.weights_bytes if use else 0)
        assert device.planned.context_bytes == (use.context_bytes if use else 0)
        assert device.planned.compute_bytes == (use.compute_bytes if use else 0)
        assert (device.total_bytes, device.free_bytes) == (planned.total_bytes, planned.free_bytes)
        assert device.planned.reserve_bytes == planned.reserve_bytes
    layers = [device.layers for device in reply.devices if device.layers]
    assert sum(last - first + 1 for first, last in layers) == reply.n_layers == plan.model.n_layers
    assert plan.speed is not None
    assert reply.tokens_per_s == pytest.approx(plan.speed.tokens_per_s)
    assert reply.tokens_per_s_range == plan.speed.tokens_per_s_range
    assert (reply.fits, reply.method, reply.short_bytes) == (True, "analytic", 0)


def test_other_cards_and_settings(plan: Plan, path: Path) -> None:
    question = PlanFields(devices=["RTX 3090", "3090"], n_ctx=32768, kv_type="q8_0", reserve_bytes=0,
                          objective="balance", parallel=2)  # fmt: skip
    reply = carry_out(order_for(plan, question))
    other = planned(path, "2x RTX 3090", n_ctx=32768, kv_type_k="q8_0", kv_type_v="q8_0", reserve_bytes=0,
                    objective="balance", parallel=2)  # fmt: skip
    assert [device.planned.weights_bytes for device in reply.devices] == [
        use.weights_bytes for use in other.estimate.devices
    ]
    assert (reply.n_ctx, reply.kv_type, reply.objective, reply.parallel) == (32768, "q8_0", "balance", 2)


def test_a_plan_that_does_not_fit_says_how_much_is_missing(plan: Plan) -> None:
    small = dataclasses.replace(plan, host=dataclasses.replace(HOST, available_bytes=4 * GIB))
    reply = carry_out(order_for(small, PlanFields(devices=["RTX 3060 12GB"])))
    assert not reply.fits
    assert reply.short_bytes == reply.host.over_bytes > 0
    assert reply.tokens_per_s is None


def test_experts_on_the_host(tmp_path: Path) -> None:
    path = tmp_path / "moe.gguf"
    zoo.write(zoo.qwen3_moe(), path, "Q4_K")
    reply = carry_out(order_for(planned(path, "RTX 3060 12GB", n_ctx=8192), PlanFields()))
    profile = analyze(str(path))
    total = sum(layer.expert_bytes for layer in profile.layers)
    assert reply.host.experts_bytes + sum(device.experts_bytes for device in reply.devices) == total
    assert 0 < reply.host.experts_bytes < total


@pytest.fixture
async def asked(plan: Plan) -> AsyncIterator[WhatIfProcess]:
    process = WhatIfProcess(lambda: plan)
    yield process
    await process.close()


@pytest.mark.process
async def test_the_process_answers_and_refuses(asked: WhatIfProcess) -> None:
    first, second = await asyncio.gather(asked(PlanFields()), asked(PlanFields(n_ctx=8192)))
    assert (json.loads(first)["n_ctx"], json.loads(second)["n_ctx"]) == (16384, 8192)
    process = asked._process
    with pytest.raises(RequestError, match="RTX 9999"):
        await asked(PlanFields(devices=["RTX 9999"]))
    assert asked._process is process
    assert asked.served.n_ctx == 16384


@pytest.mark.process
async def test_a_question_that_takes_too_long_ends_the_process(plan: Plan) -> None:
    asked = WhatIfProcess(lambda: plan, max_seconds=0.001)
    with pytest.raises(RequestTimeout):
        await asked(PlanFields())
    assert asked._process is None
    task = asyncio.create_task(WhatIfProcess(lambda: plan)(PlanFields()))
    await asyncio.sleep(0)  # it has begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_served_reserve_without_devices(plan_on_cpu: PlanOnCpu) -> None:
    assert order_for(plan_on_cpu(), PlanFields()).reserve_bytes == 0
