"""Waits between starts of the engine."""

import asyncio
import dataclasses
import socket
import time
from pathlib import Path

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.clients import with_path
from tests.patience import PATIENCE_S, soon, until
from tests.workers import free_ports
from vram_llm.engine.outage import OutageWatch
from vram_llm.machine.types import DeviceKind, Source
from vram_llm.planner.types import Plan, PlannedDevice


def with_worker(plan: Plan, endpoint: str) -> Plan:
    worker = PlannedDevice(
        id="RPC0", name="worker", kind=DeviceKind.RPC, total_bytes=1, free_bytes=1, reserve_bytes=0,
        memory_source=Source.DRIVER, alignment_bytes=1, endpoint=endpoint,
    )  # fmt: skip
    placement = dataclasses.replace(plan.placement, device_order=("RPC0",), layers_per_device=(1,))
    return dataclasses.replace(plan, devices=(worker,), placement=placement)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def test_a_file_that_comes_back_ends_the_wait(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    path, watch = tmp_path / "model.gguf", OutageWatch()
    plan = with_path(plan_on_cpu(), path)
    waiting = asyncio.create_task(watch.wait(plan, PATIENCE_S))
    await until(lambda: watch._seen is not None, "a look")
    path.write_bytes(b"GGUF")
    await soon(waiting)
    path.write_bytes(b"GGUF, but longer")  # while the engine loads and fails
    await soon(watch.wait(plan, PATIENCE_S))


@pytest.mark.parametrize(("address", "written"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_a_worker_that_comes_back_ends_the_wait(
    plan_on_cpu: PlanOnCpu, address: str, written: str
) -> None:
    if ":" in address and not has_ipv6():
        pytest.skip("this computer has no IPv6")
    (port,) = free_ports(1)
    watch = OutageWatch()
    plan = with_worker(plan_on_cpu(), f"{written}:{port}")
    waiting = asyncio.create_task(watch.wait(plan, PATIENCE_S))
    await until(lambda: watch._seen is not None, "a look")
    async with await asyncio.start_server(lambda _, writer: writer.close(), address, port):
        await soon(waiting)


async def test_without_a_change_it_lasts_as_long_as_it_should(plan_on_cpu: PlanOnCpu) -> None:
    began = time.monotonic()
    await OutageWatch().wait(plan_on_cpu(), 0.05)
    assert time.monotonic() - began >= 0.05
