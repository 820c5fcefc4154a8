"""Readings of cards, from a fake driver with three of them."""

import os
import sys
from typing import Any

import psutil
import pytest

from tests.machine.fake_nvml import FakeCard, fake_nvml
from vram_llm.machine.device_readings import DeviceReader, DeviceReading, PcieReading, ProcessMemory
from vram_llm.units import MIB

PID = os.getpid()
NO_PID = 2**22 + 7  # above the largest one of Linux


def three_cards() -> Any:
    """A fake pynvml: a card with all facts, one that tells little, and one that is full and hot."""
    silent = (
        "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo",
        "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetCurrPcieLinkGeneration",
        "nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetMaxPcieLinkGeneration",
        "nvmlDeviceGetMaxPcieLinkWidth", "nvmlDeviceGetFanSpeed", "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetDisplayMode", "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2",
    )  # fmt: skip
    return fake_nvml(
        FakeCard(uuid="GPU-0", bus_id="00000000:01:00.0", processes={PID: 700}, drawing={NO_PID: 30}),
        FakeCard(
            uuid="GPU-1",
            bus_id="00000000:02:00.0",
            name="NVIDIA T400",
            fails=dict.fromkeys(silent, "NVMLError_NotSupported"),
        ),
        FakeCard(
            uuid="GPU-2", bus_id="00000000:03:00.0", throttled=0x1 | 0x4 | 0x40, ecc_errors=2, display=1
        ),
    )


def test_a_card_with_every_fact() -> None:
    first, _, third = DeviceReader(three_cards).read()
    assert first == DeviceReading(
        index=0,
        name="NVIDIA GeForce RTX 3090 Ti",
        uuid="GPU-0",
        pci_bus_id="0000:01:00.0",
        total_bytes=24576 * MIB,
        free_bytes=24000 * MIB,
        used_bytes=276 * MIB,
        utilization=0.8,
        memory_utilization=0.4,
        temperature_c=66,
        power_w=250.0,
        power_limit_w=350.0,
        clock_mhz=1800,
        max_clock_mhz=2100,
        memory_clock_mhz=9501,
        throttle_reasons=(),
        pcie=PcieReading(1, 8, 4, 16, rx_bytes_per_s=5_000_000, tx_bytes_per_s=3_000_000),
        fan=0.45,
        ecc_errors=0,
        display_attached=False,
        processes=(
            ProcessMemory(PID, psutil.Process().name(), 700 * MIB),
            ProcessMemory(NO_PID, None, 30 * MIB),
        ),
    )
    assert (first.own_bytes(PID), first.own_bytes(1), first.own_bytes(None)) == (700 * MIB, None, None)
    assert third.throttle_reasons == ("power limit", "hardware thermal limit")
    assert (third.ecc_errors, third.display_attached, third.processes) == (2, True, ())


def test_what_a_driver_does_not_tell_is_unknown() -> None:
    _, second, _ = DeviceReader(three_cards).read()
    known = {"index": 1, "name": "NVIDIA T400", "uuid": "GPU-1", "pci_bus_id": "0000:02:00.0"}
    unknown = [name for name in DeviceReading.__slots__ if name not in known]
    assert {name: getattr(second, name) for name in known} == known
    assert [getattr(second, name) for name in unknown] == [None] * len(unknown)
    assert second.own_bytes(PID) is None


def test_a_driver_is_opened_once_and_again_after_it_failed() -> None:
    drivers = [three_cards(), None, fake_nvml(FakeCard(fails={"nvmlDeviceGetHandleByIndex": "NVMLError"}))]
    opened = []

    def open_driver() -> Any:
        opened.append(drivers[-1])
        return drivers.pop()

    reader = DeviceReader(open_driver)
    assert [len(reader.read()) for _ in range(4)] == [0, 0, 3, 3]
    assert len(opened) == 3


@pytest.mark.parametrize("module", [None, fake_nvml(init_fails="NVMLError_DriverNotLoaded")])
def test_without_a_driver_there_are_no_readings(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert DeviceReader().read() == ()


def test_the_real_library_is_read_or_absent() -> None:
    for card in DeviceReader().read():
        assert card.total_bytes is None or (card.free_bytes or 0) <= card.total_bytes
