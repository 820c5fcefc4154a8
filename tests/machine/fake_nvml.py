"""A pynvml that describes the cards it is given, and fails where it is told to."""

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
    slot: tuple[int, int] = (4, 16)  # generation and lanes
    capability: tuple[int, int] = (8, 6)
    mig: int | None = None
    processes: dict[int, int | None] = field(default_factory=dict)  # pid: MiB used, None not told
    fails: dict[str, str] = field(default_factory=dict)  # function: name of the error it raises


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
    """A module that stands in for pynvml on a machine with `cards`."""
    fake: Any = ModuleType("pynvml")
    base = type("NVMLError", (Exception,), {"value": 999, "__str__": lambda self: type(self).__name__})
    fake.NVMLError = base
    for name, value in ERRORS.items():
        setattr(fake, name, type(name, (base,), {"value": value}))
    fake.NVMLLibraryMismatchError = type("NVMLLibraryMismatchError", (Exception,), {})
    fake.NVML_ERROR_DRIVER_NOT_LOADED, fake.NVML_ERROR_LIBRARY_NOT_FOUND = 9, 12
    fake.NVML_CLOCK_MEM, fake.nvmlMemory_v2 = 2, 0x02000028
    fake.shut_down = 0

    def init() -> None:
        if init_fails:
            raise getattr(fake, init_fails)

    def shutdown() -> None:
        fake.shut_down += 1

    def query(function: str, answer: Any) -> None:
        def ask(handle: Any, *args: Any, **kwargs: Any) -> Any:
            card = cards[handle] if isinstance(handle, int) else handle
            wanted = function + "_v2" if kwargs.get("version") else function
            if wanted in card.fails:
                raise getattr(fake, card.fails[wanted])
            return answer(card, **kwargs)

        setattr(fake, function, ask)

    def memory(card: FakeCard, version: int | None = None) -> SimpleNamespace:
        reserved = {"reserved": card.reserved_mib * MIB} if version else {}
        used_mib = card.total_mib - card.free_mib - (card.reserved_mib if version else 0)
        return SimpleNamespace(
            total=card.total_mib * MIB, free=card.free_mib * MIB, used=used_mib * MIB, **reserved
        )

    def processes(card: FakeCard) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * MIB)
            for pid, mib in card.processes.items()
        ]

    def mig_mode(card: FakeCard) -> list[int]:
        if card.mig is None:
            raise fake.NVMLError_NotSupported
        return [card.mig, card.mig]

    fake.nvmlInit, fake.nvmlShutdown = init, shutdown
    fake.nvmlSystemGetDriverVersion = lambda: "580.65.06"
    fake.nvmlDeviceGetCount = lambda: len(cards)
    query("nvmlDeviceGetHandleByIndex", lambda card: card)
    query("nvmlDeviceGetName", lambda card: card.name)
    query("nvmlDeviceGetUUID", lambda card: card.uuid)
    query("nvmlDeviceGetMemoryInfo", memory)
    query("nvmlDeviceGetPciInfo", lambda card: SimpleNamespace(busId=card.bus_id))
    query("nvmlDeviceGetCudaComputeCapability", lambda card: card.capability)
    query("nvmlDeviceGetMaxClockInfo", lambda card: card.clock_mhz)
    query("nvmlDeviceGetMemoryBusWidth", lambda card: card.bus_bits)
    query("nvmlDeviceGetMaxPcieLinkGeneration", lambda card: card.slot[0])
    query("nvmlDeviceGetMaxPcieLinkWidth", lambda card: card.slot[1])
    query("nvmlDeviceGetMigMode", mig_mode)
    query("nvmlDeviceGetComputeRunningProcesses", processes)
    return fake
