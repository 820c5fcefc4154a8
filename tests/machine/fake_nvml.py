"""A fake pynvml that describes given cards, and whose functions fail for a card as the test wants."""

from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from vram_llm.units import MIB


@dataclass
class FakeCard:
    name: str | bytes = "NVIDIA GeForce RTX 3090 Ti"
    total_mib: int = 24576
    free_mib: int = 24000
    reserved_mib: int = 300
    bus_id: str | bytes = "00000000:01:00.0"
    uuid: str = "GPU-1111-2222"
    clock_mhz: int = 10501
    bus_bits: int = 384
    slot: tuple[int, int] = (4, 16)  # PCIe generation and lanes
    capability: tuple[int, int] = (8, 6)
    mig: int | None = None
    processes: dict[int, int | None] = field(default_factory=dict)  # MiB in use by pid; None: not reported
    drawing: dict[int, int | None] = field(default_factory=dict)  # the same of programs that draw
    busy_percent: tuple[int, int] = (80, 40)  # kernels, memory
    temperature_c: int = 66
    milliwatts: tuple[int, int] = (250_000, 350_000)  # power and its limit
    clocks_mhz: tuple[int, int] = (1800, 9501)  # SM, memory
    throttled: int = 0  # bits of nvmlClocksEventReasons
    link: tuple[int, int] = (1, 8)  # PCIe generation and lanes now
    traffic_kb_s: tuple[int, int] = (3000, 5000)  # from the card, to the card
    fan_percent: int = 45
    ecc_errors: int = 0
    display: int = 0
    peers: tuple[str, ...] = ()  # uuids of the cards whose memory it can read
    nvlinks: tuple[str, ...] = ()  # uuids of the cards at the other end of an NVLink
    fails: dict[str, str] = field(default_factory=dict)  # the name of the error by function


ERRORS = {
    "NVMLError_InvalidArgument": 2,
    "NVMLError_NotSupported": 3,
    "NVMLError_DriverNotLoaded": 9,
    "NVMLError_LibraryNotFound": 12,
    "NVMLError_FunctionNotFound": 13,
    "NVMLError_GpuIsLost": 15,
    "NVMLError_LibRmVersionMismatch": 18,
}


def fake_nvml(*cards: FakeCard, init_fails: str | None = None) -> Any:
    """A fake of the module pynvml for a machine with `cards`; `init_fails` names an error of nvmlInit."""
    fake: Any = ModuleType("pynvml")
    base = type("NVMLError", (Exception,), {"value": 999, "__str__": lambda self: type(self).__name__})
    fake.NVMLError = base
    for name, value in ERRORS.items():
        setattr(fake, name, type(name, (base,), {"value": value}))
    fake.NVMLLibraryMismatchError = type("NVMLLibraryMismatchError", (Exception,), {})
    fake.NVML_ERROR_DRIVER_NOT_LOADED, fake.NVML_ERROR_LIBRARY_NOT_FOUND = 9, 12
    fake.NVML_CLOCK_SM, fake.NVML_CLOCK_MEM, fake.nvmlMemory_v2 = 1, 2, 0x02000028
    fake.NVML_TEMPERATURE_GPU = fake.NVML_VOLATILE_ECC = fake.NVML_PCIE_UTIL_TX_BYTES = 0
    fake.NVML_MEMORY_ERROR_TYPE_UNCORRECTED = fake.NVML_PCIE_UTIL_RX_BYTES = 1
    fake.shut_down = 0

    def init() -> None:
        if init_fails:
            raise getattr(fake, init_fails)

    def shutdown() -> None:
        fake.shut_down += 1

    def add_query(function: str, result: Any) -> None:
        def query(handle: Any, *args: Any, **kwargs: Any) -> Any:
            card = cards[handle] if isinstance(handle, int) else handle
            name = function + "_v2" if kwargs.get("version") else function
            if name in card.fails:
                raise getattr(fake, card.fails[name])
            return result(card, *args, **kwargs)

        setattr(fake, function, query)

    def memory(card: FakeCard, version: int | None = None) -> SimpleNamespace:
        reserved = {"reserved": card.reserved_mib * MIB} if version else {}
        used_mib = card.total_mib - card.free_mib - (card.reserved_mib if version else 0)
        return SimpleNamespace(
            total=card.total_mib * MIB, free=card.free_mib * MIB, used=used_mib * MIB, **reserved
        )

    def processes(of: dict[int, int | None]) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * MIB)
            for pid, mib in of.items()
        ]

    def mig_mode(card: FakeCard) -> list[int]:
        if card.mig is None:
            raise fake.NVMLError_NotSupported
        return [card.mig, card.mig]

    fake.nvmlInit, fake.nvmlShutdown = init, shutdown
    fake.nvmlSystemGetDriverVersion = lambda: "580.65.06"
    fake.nvmlSystemGetCudaDriverVersion_v2 = lambda: 13000
    fake.nvmlDeviceGetCount = lambda: len(cards)
    fake.nvmlDeviceGetP2PStatus = lambda one, other, index: (
        0 if other.uuid in {0: one.peers, 2: one.nvlinks}[index] else 5
    )
    add_query("nvmlDeviceGetHandleByIndex", lambda card: card)
    add_query("nvmlDeviceGetName", lambda card: card.name)
    add_query("nvmlDeviceGetUUID", lambda card: card.uuid)
    add_query("nvmlDeviceGetMemoryInfo", memory)
    add_query("nvmlDeviceGetPciInfo", lambda card: SimpleNamespace(busId=card.bus_id))
    add_query("nvmlDeviceGetCudaComputeCapability", lambda card: card.capability)
    add_query("nvmlDeviceGetMaxClockInfo", lambda card, kind: card.clock_mhz if kind == 2 else 2100)
    add_query("nvmlDeviceGetMemoryBusWidth", lambda card: card.bus_bits)
    add_query("nvmlDeviceGetMaxPcieLinkGeneration", lambda card: card.slot[0])
    add_query("nvmlDeviceGetMaxPcieLinkWidth", lambda card: card.slot[1])
    add_query("nvmlDeviceGetMigMode", mig_mode)
    add_query("nvmlDeviceGetComputeRunningProcesses", lambda card: processes(card.processes))
    add_query("nvmlDeviceGetGraphicsRunningProcesses", lambda card: processes(card.drawing))
    add_query(
        "nvmlDeviceGetUtilizationRates",
        lambda card: SimpleNamespace(gpu=card.busy_percent[0], memory=card.busy_percent[1]),
    )
    add_query("nvmlDeviceGetTemperature", lambda card, sensor: card.temperature_c)
    add_query("nvmlDeviceGetPowerUsage", lambda card: card.milliwatts[0])
    add_query("nvmlDeviceGetEnforcedPowerLimit", lambda card: card.milliwatts[1])
    add_query("nvmlDeviceGetClockInfo", lambda card, kind: card.clocks_mhz[kind - 1])
    add_query("nvmlDeviceGetCurrentClocksThrottleReasons", lambda card: card.throttled)
    add_query("nvmlDeviceGetCurrPcieLinkGeneration", lambda card: card.link[0])
    add_query("nvmlDeviceGetCurrPcieLinkWidth", lambda card: card.link[1])
    add_query("nvmlDeviceGetPcieThroughput", lambda card, counter: card.traffic_kb_s[counter])
    add_query("nvmlDeviceGetFanSpeed", lambda card: card.fan_percent)
    add_query("nvmlDeviceGetTotalEccErrors", lambda card, kind, since: card.ecc_errors)
    add_query("nvmlDeviceGetDisplayMode", lambda card: card.display)
    return fake
