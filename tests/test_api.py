"""Calls of the front door, whose parts are tested on their own floors."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.machine.fake_nvml import FakeCard, fake_nvml
from vram_llm.engine import probe
from vram_llm.engine.model_info import ModelInfo
from vram_llm.machine import json_store, nvml, overhead_store
from vram_llm.machine.types import Machine
from vram_llm.planner.estimates import DeviceEstimate, MemoryUse
from vram_llm.planner.memory_report import OF_CARD, OF_PROCESS
from vram_llm.planner.overhead import OVERHEAD_BYTES, overhead_bytes
from vram_llm.planner.types import Plan, PlannedDevice
from vram_llm.units import MIB
from vram_llm.workflows import detection, verification

PID = 4242


@pytest.fixture(autouse=True)
def _data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(json_store.DATA_DIR_VARIABLE, str(tmp_path / "data"))


@pytest.fixture
def fake_card(monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    """A card of an NVML that is faked, 276 MiB of it in use."""
    card = FakeCard()
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(card))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return card


@pytest.fixture
def verify_on(monkeypatch: pytest.MonkeyPatch, plan_on_cpu: Callable[..., Plan]) -> Callable[..., Any]:
    """Verifies a plan for the card; the engine, which cannot be had without one, takes memory as told."""

    use = MemoryUse(600 * MIB, 300 * MIB, 100 * MIB)

    def verify(machine: Machine, load: Callable[[], None], **plan_fields: Any) -> Any:
        async def run(plan: Plan, look: Callable[[int], Any], on_state: object) -> tuple[ModelInfo, Any]:
            load()
            info = ModelInfo(
                name="m", path="m", architecture="llama", parameters=1, size_bytes=1, n_vocab=1, n_ctx=512,
                n_ctx_train=512, parallel=1, chat_template=None, bos_token="", eos_token="", created=0,
                memory={"GPU0": use},
            )  # fmt: skip
            return info, look(PID)

        monkeypatch.setattr(probe, "run", run)
        plan = plan_on_cpu()
        (device,) = machine.devices
        planned = PlannedDevice(
            **{name: getattr(device, name) for name in device.__dataclass_fields__}, reserve_bytes=0
        )
        estimate = DeviceEstimate.of(
            "GPU0", use, overhead_bytes=overhead_bytes(device), budget_bytes=1450 * MIB
        )
        estimates = dataclasses.replace(plan.estimate, devices=(estimate,))
        return verification.verify(
            dataclasses.replace(plan, devices=(planned,), estimate=estimates, **plan_fields)
        )

    return verify


def test_what_verify_measures_is_planned_with(fake_card: FakeCard, verify_on: Callable[..., Any]) -> None:
    before = detection.detect()
    assert overhead_bytes(before.devices[0]) == OVERHEAD_BYTES[before.devices[0].kind]

    def load() -> None:
        fake_card.free_mib -= 1440
        fake_card.processes[PID] = 1431

    found = verify_on(before, load)
    overhead = found.devices[0].overhead
    assert (overhead.held_bytes, overhead.how) == (431 * MIB, OF_PROCESS)
    assert found.within_budget
    assert "stored" in found.notes[0]
    assert overhead_bytes(detection.detect().devices[0]) == 431 * MIB


def test_a_process_nvml_does_not_know_is_measured_by_the_card(
    fake_card: FakeCard, verify_on: Callable[..., Any]
) -> None:
    def load() -> None:
        fake_card.free_mib -= 1460

    found = verify_on(detection.detect(), load)
    overhead = found.devices[0].overhead
    assert (overhead.held_bytes, overhead.how) == (460 * MIB, OF_CARD)
    assert not found.within_budget
    assert found.devices[0].over_bytes == 10 * MIB


def test_the_built_in_model_teaches_nothing(
    fake_card: FakeCard, verify_on: Callable[..., Any], plan_on_cpu: Callable[..., Plan]
) -> None:
    def load() -> None:
        fake_card.processes[PID] = 1300

    demo = dataclasses.replace(plan_on_cpu().model, path=str(detection.analyze("demo").shards[0].path))
    found = verify_on(detection.detect(), load, model=demo)
    assert found.devices[0].overhead.held_bytes == 300 * MIB
    assert "not stored" in found.notes[0]
    assert not overhead_store.path().exists()


def test_what_if_cards_have_no_learned_overhead(fake_card: FakeCard) -> None:
    (device,) = detection.detect().devices
    record = overhead_store.new_record(device, MIB, how=OF_PROCESS, model="m", driver=device.driver_version)
    overhead_store.store({device.uuid or "": record})
    assert overhead_bytes(detection.detect().devices[0]) == MIB
    assert overhead_bytes(detection.detect(["RTX 3090 Ti"]).devices[0]) == OVERHEAD_BYTES[device.kind]


def test_usage_is_read_by_the_parent(fake_card: FakeCard) -> None:
    assert nvml.memory_usage().used_bytes == {fake_card.uuid: 276 * MIB}
