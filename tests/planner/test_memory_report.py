import dataclasses
from collections.abc import Callable

import pytest

from tests.planner.cases import card
from vram_llm.machine.types import DeviceKind
from vram_llm.planner.estimates import DeviceEstimate, Estimate, HostEstimate, MemoryUse
from vram_llm.planner.memory_report import (
    NO_NVML,
    NO_NVML_OVER_RPC,
    NVML_TOO_LOW,
    OF_CARD,
    OF_PROCESS,
    DeviceRow,
    MemoryReading,
    MemoryReport,
    memory_report,
    readings,
)
from vram_llm.planner.types import HOST, Plan, PlannedDevice
from vram_llm.units import GIB, MIB

CARD = dataclasses.replace(card(0, GIB), id="GPU0", name="RTX 3090", uuid="GPU-a", what_if=False)
WORKER = dataclasses.replace(card(1, GIB, DeviceKind.RPC), id="RPC0", name="worker far:1", endpoint="far:1")

AS_PLANNED = {
    "GPU0": MemoryUse(600, 200, 90),
    "RPC0": MemoryUse(600, 200, 90),
    HOST: MemoryUse(50, 0, 10),
}


@pytest.fixture
def plan(plan_on_cpu: Callable[..., Plan]) -> Plan:
    """A card and a worker, 600 + 200 + 100 bytes and an overhead of 50 on each, of a budget of 1,000."""
    devices = tuple(
        PlannedDevice(**{name: getattr(each, name) for name in each.__dataclass_fields__}, reserve_bytes=0)
        for each in (CARD, WORKER)
    )
    estimates = tuple(
        DeviceEstimate.of(each.id, MemoryUse(600, 200, 100), overhead_bytes=50, budget_bytes=1000)
        for each in devices
    )
    host = HostEstimate.of(MemoryUse(50, 0, 10), budget_bytes=100)
    estimate = Estimate(method="by hand", devices=estimates, host=host)
    return dataclasses.replace(plan_on_cpu(), devices=devices, estimate=estimate)


def test_a_load_as_planned(plan: Plan) -> None:
    found = memory_report(plan, AS_PLANNED)
    assert [row.id for row in found.devices] == ["GPU0", "RPC0", "host"]
    assert [row.held_bytes for row in found.devices] == [940, 940, 60]
    assert [row.over_bytes for row in found.devices] == [-60, -60, -40]
    assert found.within_budget
    assert found.verdict == "every device is within its budget"
    assert found.exact_kinds == ("weights", "context")
    assert found.method == "by hand"


def test_why_nothing_outside_the_buffers_is_measured(plan: Plan) -> None:
    local, worker, host = memory_report(plan, AS_PLANNED).devices
    assert local.overhead is not None
    assert worker.overhead is not None
    assert (local.overhead.held_bytes, local.overhead.how) == (None, NO_NVML)
    assert (worker.overhead.held_bytes, worker.overhead.how) == (None, NO_NVML_OVER_RPC)
    assert host.overhead is None


@pytest.mark.parametrize(
    ("used_bytes", "held_bytes", "over_bytes"),
    [(None, 940, -60), (890, 890, -110), (1000, 1000, 0), (1001, 1001, 1)],
)
def test_what_nvml_shows_takes_the_place_of_the_planned_overhead(
    plan: Plan, used_bytes: int | None, held_bytes: int, over_bytes: int
) -> None:
    found = memory_report(plan, AS_PLANNED, {"GPU0": MemoryReading(used_bytes, OF_PROCESS)})
    row = found.devices[0]
    assert (row.held_bytes, row.over_bytes) == (held_bytes, over_bytes)
    assert found.within_budget == (over_bytes <= 0)
    assert row.overhead is not None
    assert row.overhead.held_bytes == (None if used_bytes is None else used_bytes - 890)


def test_the_verdict_names_every_device_over_its_budget(plan: Plan) -> None:
    more = {name: dataclasses.replace(use, compute_bytes=2138) for name, use in AS_PLANNED.items()}
    found = memory_report(plan, more)
    assert not found.within_budget
    assert "RTX 3090 (GPU0) holds 1.94 KiB more than its budget of 1000 B" in found.verdict
    assert "worker far:1 (RPC0) holds 1.94 KiB more" in found.verdict
    assert "the computer's memory holds 2.04 KiB more than its budget of 100 B" in found.verdict
    assert "--reserve-mib" in found.verdict


def test_a_device_llama_cpp_does_not_report_holds_nothing(plan: Plan) -> None:
    found = memory_report(plan, {"GPU0": AS_PLANNED["GPU0"]})
    assert [row.held_bytes for row in found.devices] == [940, 50, 0]
    assert found.exact_kinds == ()


@pytest.mark.parametrize(
    ("before", "after", "process", "reading"),
    [
        ({"GPU-a": 100}, {"GPU-a": 1100}, {"GPU-a": 950}, MemoryReading(950, OF_PROCESS)),
        ({"GPU-a": 100}, {"GPU-a": 1100}, {}, MemoryReading(1000, OF_CARD)),
        # in a container NVML may know another process by our number
        ({"GPU-a": 100}, {"GPU-a": 1100}, {"GPU-a": 889}, MemoryReading(1000, OF_CARD)),
        ({"GPU-a": 100}, {"GPU-a": 990}, {}, MemoryReading(890, OF_CARD)),
        ({"GPU-a": 100}, {"GPU-a": 989}, {}, MemoryReading(None, NVML_TOO_LOW)),
        ({}, {"GPU-a": 1100}, {}, MemoryReading(None, NVML_TOO_LOW)),
        ({"GPU-b": 100}, {"GPU-b": 1100}, {"GPU-b": 950}, None),
        ({}, {}, {}, None),
    ],
)
def test_readings(
    plan: Plan,
    before: dict[str, int],
    after: dict[str, int],
    process: dict[str, int],
    reading: MemoryReading | None,
) -> None:
    found = readings(plan, [AS_PLANNED], before, after, process)
    assert found == ({} if reading is None else {"GPU0": reading})


@pytest.mark.parametrize(
    ("more_bytes", "budget_bytes", "is_far_off"),
    [
        (0, 10 * GIB, False),
        (63 * MIB, 10 * GIB, False),
        (65 * MIB, 10 * GIB, True),
        (65 * MIB, GIB, True),
        (10 * MIB, GIB, True),  # little, and over the budget
        (-GIB, 10 * GIB, False),
    ],
)
def test_what_is_worth_showing(more_bytes: int, budget_bytes: int, is_far_off: bool) -> None:
    row = DeviceRow(
        id="GPU0",
        name="",
        kinds=(),
        planned_bytes=GIB,
        held_bytes=GIB + more_bytes,
        budget_bytes=budget_bytes,
        over_bytes=GIB + more_bytes - budget_bytes,
    )
    found = MemoryReport(model="", method="", devices=(row,), within_budget=row.over_bytes <= 0)
    assert found.is_far_off == is_far_off
