"""Real llama.cpp over two real workers: sums are measured, kept, and used by plans."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.planner.saved import local, remote
from vram_llm.errors import EngineDied
from vram_llm.llama.measure import all_reduce
from vram_llm.llama.measure.all_reduce_wire import SumTime, SumTimes
from vram_llm.llama.measure.all_reduce_worker import n_rows_of
from vram_llm.machine import json_store, sum_store
from vram_llm.machine.datasheet_speed import with_datasheet_speeds
from vram_llm.machine.types import Device, Fact, Host, Link, Machine, Source
from vram_llm.workflows import detection, measurement


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(json_store.DATA_DIR_VARIABLE, str(tmp_path / "data"))
    monkeypatch.setattr(all_reduce, "SECONDS", 0.1)  # the least number of rounds


@pytest.mark.process
def test_sums_over_two_workers(workers: tuple[str, ...]) -> None:
    machine = detection.detect(rpc=workers[:2])
    told: list[tuple[str, float]] = []
    (stored,) = measurement.calibrate_sums(machine, on_progress=lambda *news: told.append(news))
    assert stored.key == " + ".join(sorted(workers[:2]))
    assert stored.notes == ()
    assert stored.record is not None
    assert stored.record.latency_s > 0
    assert stored.record.bytes_per_s > 0
    assert [device.link_latency_s is not None for device in stored.record.devices] == [True, True]
    assert {name for name, _ in told} == {f"sums of {stored.key}"}
    assert sum_store.read()[0] == {stored.key: stored.record}
    again = sum_store.with_measured_sums(machine)
    (found,) = again.sums.measured
    assert (found.latency_s, found.bytes_per_s) == (stored.record.latency_s, stored.record.bytes_per_s)


def test_groups_are_all_devices_then_without_the_slowest(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    asked: list[list[str]] = []

    def times(devices: Sequence[Device], *_args: object) -> SumTimes:
        asked.append([device.id for device in devices])
        if len(devices) == 3:
            raise EngineDied("llama.cpp ended")
        return SumTimes(few=SumTime(8192, 2e-5), many=SumTime(2**20, 1.2e-4))

    monkeypatch.setattr(all_reduce, "sum_times", times)
    rates = {"GPU0": 3e11, "GPU1": 9e11, "GPU2": 5e11}
    cards = tuple(local(i, bandwidth_bytes_per_s=Fact(rates[f"GPU{i}"], Source.DRIVER)) for i in range(3))
    machine = with_datasheet_speeds(Machine(devices=cards, host=host))
    first, second = measurement.calibrate_sums(machine)
    assert asked == [["GPU0", "GPU1", "GPU2"], ["GPU1", "GPU2"]]
    assert first.record is None
    assert "no sums: llama.cpp ended" in first.notes[0]
    assert second.record is not None
    assert second.key == "GPU-1 + GPU-2"


def test_one_device_has_no_sums(host: Host) -> None:
    assert list(measurement.calibrate_sums(Machine(devices=(local(0),), host=host))) == []


def test_latency_and_rate_of_two_sizes() -> None:
    times = SumTimes(few=SumTime(8192, 3e-5), many=SumTime(1_008_192, 1.3e-4))
    assert times.bytes_per_s == pytest.approx(1e10)
    assert times.latency_s == pytest.approx(3e-5 - 8192e-10)
    noisy = SumTimes(few=SumTime(8192, 3e-5), many=SumTime(1_008_192, 2e-5))
    assert noisy.bytes_per_s > 0
    assert 0 <= noisy.latency_s <= 3e-5


def test_a_slow_link_gets_fewer_rows() -> None:
    def behind(bytes_per_s: float) -> Device:
        link = Link(latency_s=Fact(1e-3, Source.MEASURED), bytes_per_s=Fact(bytes_per_s, Source.MEASURED))
        return remote(0, "a:1", link=link)

    assert n_rows_of([local(0), local(1)]) == 512
    assert n_rows_of([behind(2e9), behind(2e9)]) == 64
    assert n_rows_of([behind(2e9), behind(1e7)]) == 30
    assert n_rows_of([behind(1e5), behind(1e5)]) == 8
