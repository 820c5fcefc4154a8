"""Graphics that use the memory of the computer, and their drivers' limits of that."""

from vram_llm.machine.types import DeviceKind
from vram_llm.units import GIB, MIB, format_bytes

_SMALL_MAC_BYTES = 32 * GIB


def max_graphics_bytes(kind: DeviceKind, total_bytes: int) -> int:
    """The most bytes of the computer's `total_bytes` that graphics may use.

    With Metal, llama.cpp takes recommendedMaxWorkingSetSize for the device's memory. In published logs of
    llama.cpp it is two thirds of 8 to 32 GiB and three quarters of larger memory (21,845 of 32,768 MiB,
    73,728 of 98,304). macOS 26 allows more (107.5 of 128 GiB). Other kinds may use all of the memory.
    """
    if kind is not DeviceKind.METAL:
        return total_bytes
    return total_bytes * 2 // 3 if total_bytes <= _SMALL_MAC_BYTES else total_bytes * 3 // 4


def limit_note(name: str, kind: DeviceKind, total_bytes: int) -> str | None:
    """A sentence on the driver's limit and on the setting that raises it; None if there is no limit."""
    if kind is DeviceKind.METAL:
        limit = format_bytes(max_graphics_bytes(kind, total_bytes))
        wired_mib = (total_bytes - total_bytes // 8) // MIB
        return (
            f"macOS lets {name} use {limit}; `sudo sysctl iogpu.wired_limit_mb={wired_mib}` lets it use more"
        )
    if name.startswith("AMD Radeon"):
        pages = (total_bytes - total_bytes // 16) // 4096
        return (
            f"Linux lets {name} use half of the memory; the plan needs the kernel's option ttm.pages_limit="
            f"{pages}, or memory that the firmware sets aside, where it takes more"
        )
    return None
