"""Measured sums are found again by the devices that add up, and only while nothing has changed."""

import dataclasses
from pathlib import Path

import pytest

from tests.planner.saved import absent, local, remote
from vram_llm.machine import json_store, sum_store
from vram_llm.machine.types import Device, Fact, Host, Link, Machine, MeasuredSum, Source
from vram_llm.units import GIB

HOST = Host(name="box", cores=8, total_bytes=64 * GIB, available_bytes=48 * GIB)
CARDS = (local(0, driver_version="580"), local(1, driver_version="580"))
LINK = Link(latency_s=Fact(1e-3, Source.MEASURED), bytes_per_s=Fact(1e8, Source.MEASURED))
WORKER = remote(0, "10.0.0.2:50052", link=LINK)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(json_store.DATA_DIR_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data" / "sums.json"


def stored(*devices: Device) -> str:
    """Store a sum of 40 us and 1 GB/s; its key."""
    key = sum_store.sum_key(devices)
    assert key is not None
    assert sum_store.store(key, sum_store.new_record(devices, 4e-5, 1e9)).notes == ()
    return key


def found(*devices: Device) -> Machine:
    return sum_store.with_measured_sums(Machine(devices=devices, host=HOST))


def test_a_sum_is_its_devices_in_any_order() -> None:
    key = stored(*CARDS)
    assert key == "GPU-0 + GPU-1" == sum_store.sum_key(CARDS[::-1])
    machine = found(WORKER, *CARDS[::-1])
    ids = frozenset(("GPU0", "GPU1"))
    assert machine.sums.measured == (MeasuredSum(device_ids=ids, latency_s=4e-5, bytes_per_s=1e9),)
    assert machine.notes == ()
    renumbered = [dataclasses.replace(card, id=f"GPU{5 - i}") for i, card in enumerate(CARDS)]
    assert found(*renumbered).sums.measured[0].device_ids == {"GPU4", "GPU5"}


def test_a_sum_of_devices_that_are_not_here_is_not_used() -> None:
    stored(*CARDS, WORKER)
    assert found(*CARDS).sums.measured == ()
    assert found(CARDS[0]).sums.measured == ()
    assert sum_store.sum_key((absent(0), local(1))) is None


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (dataclasses.replace(CARDS[0], driver_version="590"), "has another driver"),
        (
            dataclasses.replace(
                WORKER, link=dataclasses.replace(LINK, latency_s=Fact(9e-3, Source.MEASURED))
            ),
            "the link of worker 10.0.0.2:50052 is slower",
        ),
    ],
)
def test_a_change_makes_a_sum_invalid(now: Device, reason: str) -> None:
    stored(CARDS[0], WORKER)
    machine = found(*(now if device.id == now.id else device for device in (CARDS[0], WORKER)))
    assert machine.sums.measured == ()
    (note,) = machine.notes
    assert reason in note
    assert "`vram-llm calibrate` measures it again" in note


def test_another_llama_cpp_makes_a_sum_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    stored(*CARDS)
    monkeypatch.setattr(json_store, "llama_cpp_version", lambda: "9.9.9")
    assert "another llama-cpp-python" in found(*CARDS).notes[0]


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["GPU-0 + GPU-1"], {"10.0.0.2:50052 + GPU-1"}),
        (["GPU-0"], {"10.0.0.2:50052 + GPU-1"}),  # a device's key: all of its sums
        (["NVIDIA GeForce RTX 3090 Ti"], set()),
        (["RTX 9090"], {"GPU-0 + GPU-1", "10.0.0.2:50052 + GPU-1"}),
        (None, set()),
    ],
)
def test_sums_are_forgotten(names: list[str] | None, left: set[str]) -> None:
    keys = {stored(*CARDS), stored(CARDS[1], WORKER)}
    assert set(sum_store.forget(names)) == keys - left
    assert set(sum_store.read()[0]) == left


def test_a_damaged_file_is_a_note(file: Path) -> None:
    stored(*CARDS)
    file.write_text("{")
    machine = found(*CARDS)
    assert machine.sums.measured == ()
    assert "are damaged and not used" in machine.notes[0]
