"""Readings of NVIDIA cards: memory, load, heat, power, clocks, link and programs, as the driver reads them.

The driver takes milliseconds for a card, and 20 ms for each direction of its PCIe traffic (nvml.h,
nvmlDeviceGetPcieThroughput): a caller with an event loop asks in a thread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vram_llm.machine.nvml import card_memory, decoded, normalise_bus_id, open_nvml, query

_FULL_PERCENT = 100
_MW = 1000  # milliwatts of a watt
_PCIE_KB = 1000  # nvml.h: KB/s

THROTTLE_REASONS = {
    0x2: "application clocks",
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal limit",
    0x40: "hardware thermal limit",
    0x80: "power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability voltage",
}
"""The bits of nvmlClocksEventReasons (nvml.h) without "idle", which slows nothing down."""


@dataclass(frozen=True, slots=True)
class PcieReading:
    """A card's link now and at most, and its traffic. An idle card lowers the generation."""

    generation: int | None
    width: int | None
    max_generation: int | None
    max_width: int | None
    rx_bytes_per_s: int | None  # to the card
    tx_bytes_per_s: int | None


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """A program's memory on a card; None where the driver does not tell."""

    pid: int
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """A card at one moment. A figure that its driver does not give is None. Shares are 0 to 1."""

    index: int  # of nvidia-smi
    name: str
    uuid: str | None
    pci_bus_id: str | None  # as in machine.types.Device
    total_bytes: int | None
    free_bytes: int | None
    used_bytes: int | None  # by all programs
    utilization: float | None  # share of the time in which a kernel ran
    memory_utilization: float | None  # share of the time in which memory was read or written
    temperature_c: int | None
    power_w: float | None
    power_limit_w: float | None
    clock_mhz: int | None
    max_clock_mhz: int | None
    memory_clock_mhz: int | None
    throttle_reasons: tuple[str, ...] | None
    pcie: PcieReading | None
    fan: float | None
    ecc_errors: int | None  # uncorrected, since the driver was loaded
    display_attached: bool | None
    processes: tuple[ProcessMemory, ...] | None

    def own_bytes(self, pid: int | None) -> int | None:
        """Bytes of a process; None if the driver does not list it, as in a container it may not."""
        return next((each.used_bytes for each in self.processes or () if each.pid == pid), None)


class DeviceReader:
    """Reads all cards. `open_driver` gives an initialised pynvml, or None without a driver."""

    def __init__(self, open_driver: Callable[[], Any | None] = open_nvml) -> None:
        self._open_driver = open_driver
        self._driver: Any | None = None

    def read(self) -> tuple[DeviceReading, ...]:
        """Every card, in nvidia-smi's order; empty without a driver. Takes up to 50 ms a card.

        A driver that fails, as after an update, is opened again at the next reading.
        """
        self._driver = self._driver or self._open_driver()
        if (nvml := self._driver) is None:
            return ()
        try:
            return tuple(_read_card(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        except nvml.NVMLError:
            self._driver = None
            return ()


def _read_card(nvml: Any, index: int) -> DeviceReading:
    """The card at `index`. Raises NVMLError if it is gone."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(name: str, *args: Any) -> Any | None:
        return query(nvml, getattr(nvml, name), handle, *args)

    memory = query(nvml, card_memory, nvml, handle)
    use = ask("nvmlDeviceGetUtilizationRates")
    pci = ask("nvmlDeviceGetPciInfo")
    display = ask("nvmlDeviceGetDisplayMode")
    ecc = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
    return DeviceReading(
        index=index,
        name=ask("nvmlDeviceGetName") or "NVIDIA GPU",
        uuid=ask("nvmlDeviceGetUUID"),
        pci_bus_id=normalise_bus_id(decoded(pci.busId)) if pci else None,
        total_bytes=None if memory is None else int(memory.total),
        free_bytes=None if memory is None else int(memory.free),
        used_bytes=None if memory is None else int(memory.used),
        utilization=None if use is None else use.gpu / _FULL_PERCENT,
        memory_utilization=None if use is None else use.memory / _FULL_PERCENT,
        temperature_c=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        power_w=_scaled(ask("nvmlDeviceGetPowerUsage"), 1 / _MW),
        power_limit_w=_scaled(ask("nvmlDeviceGetEnforcedPowerLimit"), 1 / _MW),
        clock_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        max_clock_mhz=ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        memory_clock_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        throttle_reasons=_reasons(ask("nvmlDeviceGetCurrentClocksThrottleReasons")),
        pcie=_pcie(nvml, ask),
        fan=_scaled(ask("nvmlDeviceGetFanSpeed"), 1 / _FULL_PERCENT),
        ecc_errors=ask("nvmlDeviceGetTotalEccErrors", *ecc),
        display_attached=None if display is None else bool(display),
        processes=_processes(nvml, handle),
    )


def _pcie(nvml: Any, ask: Callable[..., Any | None]) -> PcieReading | None:
    """None if the card has no PCIe link that the driver knows."""
    maximum = ask("nvmlDeviceGetMaxPcieLinkGeneration"), ask("nvmlDeviceGetMaxPcieLinkWidth")
    now = ask("nvmlDeviceGetCurrPcieLinkGeneration"), ask("nvmlDeviceGetCurrPcieLinkWidth")
    if now == maximum == (None, None):
        return None
    received = ask("nvmlDeviceGetPcieThroughput", nvml.NVML_PCIE_UTIL_RX_BYTES)
    sent = ask("nvmlDeviceGetPcieThroughput", nvml.NVML_PCIE_UTIL_TX_BYTES)
    rates = (None if each is None else each * _PCIE_KB for each in (received, sent))
    return PcieReading(*now, *maximum, *rates)


def _reasons(bits: int | None) -> tuple[str, ...] | None:
    if bits is None:
        return None
    return tuple(reason for bit, reason in THROTTLE_REASONS.items() if bits & bit)


def _processes(nvml: Any, handle: Any) -> tuple[ProcessMemory, ...] | None:
    """Programs that compute or draw on a card, those with most memory first."""
    found: dict[int, int | None] = {}
    lists = (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses)
    are_known = False
    for running in lists:
        try:
            for process in running(handle):
                found[process.pid] = process.usedGpuMemory
            are_known = True
        except (nvml.NVMLError, nvml.NVMLLibraryMismatchError):
            continue
    if not are_known:
        return None
    by_size = sorted(found.items(), key=lambda item: -(item[1] or 0))
    return tuple(ProcessMemory(pid, _process_name(pid), n_bytes) for pid, n_bytes in by_size)


def _process_name(pid: int) -> str | None:
    """The name of a program of this computer; None if it is not seen from here, as from a container."""
    import psutil

    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return None


def _scaled(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor
