"""Workers behind slow links are used only where that saves time, and the plan says why not."""

import dataclasses

import pytest

from tests import zoo
from tests.planner.cases import profile_of, speed
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Link, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Objective, Plan, Workload
from vram_llm.units import GIB

HOST = Host(name="test", cores=8, total_bytes=64 * GIB, available_bytes=60 * GIB, speed=speed(60))
WORKLOAD = Workload(n_ctx=8192)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    """7.9 GiB of weights."""
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("model"))


def rig(card_gib: int, latency_ms: float, *, is_calibrated: bool = True) -> Machine:
    """A card, and a worker that reads as fast as the card, behind a link of that latency each way."""
    card = what_if(["RTX 3090"], HOST)
    link = Link(latency_s=Fact(latency_ms / 1e3, Source.MEASURED), bytes_per_s=Fact(125e6, Source.MEASURED))
    worker = Device(
        id="RPC0", name="worker 10.0.0.2:50052", kind=DeviceKind.RPC, total_bytes=24 * GIB,
        free_bytes=24 * GIB, memory_source=Source.DRIVER, endpoint="10.0.0.2:50052", link=link,
        speed=speed(800, step_us=2e3 * latency_ms) if is_calibrated else None,
    )  # fmt: skip
    devices = (dataclasses.replace(card.devices[0], free_bytes=card_gib * GIB), worker)
    return Machine(devices=devices, host=HOST)


def link_notes(plan: Plan) -> list[str]:
    return [note for note in plan.notes if "link" in note]


@pytest.mark.parametrize("latency_ms", [5.0, 200.0])
def test_a_model_that_fits_the_card_needs_no_slow_link(llama: ModelProfile, latency_ms: float) -> None:
    plan = make_plan(llama, rig(24, latency_ms), WORKLOAD)
    assert plan.placement.device_order == ("GPU0",)
    (note,) = link_notes(plan)
    assert note.startswith("worker 10.0.0.2:50052 (RPC0) is left out, for its link is slow: 1 Gbit/s, ")
    assert f" {2 * latency_ms:.3g} ms there and back, measured; with it a token would take" in note


def test_a_fast_link_is_used_and_not_mentioned(llama: ModelProfile) -> None:
    plan = make_plan(llama, rig(6, 0.05), WORKLOAD)
    assert "RPC0" in plan.placement.device_order
    assert link_notes(plan) == []


def test_a_link_that_still_saves_time_is_mentioned(llama: ModelProfile) -> None:
    """The host would take longer for the layers that the card has no room for."""
    plan = make_plan(llama, rig(5, 5.0), WORKLOAD)
    assert "RPC0" in plan.placement.device_order
    assert plan.speed is not None
    assert plan.speed.step_s > 10e-3
    (note,) = link_notes(plan)
    assert note.startswith("each token waits 10 of ")
    assert note.endswith("worker 10.0.0.2:50052 (RPC0): 1 Gbit/s, 10 ms there and back, measured")


@pytest.mark.parametrize("latency_ms", [100.0])
def test_the_host_takes_the_rest_if_the_link_is_slower(llama: ModelProfile, latency_ms: float) -> None:
    plan = make_plan(llama, rig(6, latency_ms), WORKLOAD)
    assert "RPC0" not in plan.placement.device_order
    (note,) = link_notes(plan)
    assert "is left out, for its link is slow" in note
    dictated = make_plan(
        llama, rig(6, latency_ms), dataclasses.replace(WORKLOAD, objective=Objective.BALANCE)
    )
    assert plan.speed is not None
    assert dictated.speed is not None
    assert plan.speed.step_s < dictated.speed.step_s


def test_an_assumed_worker_has_the_measured_latency(llama: ModelProfile) -> None:
    """Its memory is still assumed, and the note says only that."""
    speeds = []
    for latency_ms in (0.1, 10.0):
        machine = rig(2, latency_ms, is_calibrated=False)
        full = dataclasses.replace(HOST, available_bytes=2 * GIB)
        plan = make_plan(llama, dataclasses.replace(machine, host=full), WORKLOAD)
        assert "RPC0" in plan.placement.device_order
        assert any("is assumed (20 GB/s); `vram-llm calibrate --rpc" in note for note in plan.notes)
        assert plan.speed is not None
        speeds.append(plan.speed.step_s)
    assert speeds[1] - speeds[0] > 18e-3
