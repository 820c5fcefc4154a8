"""Graphics that use the memory of the computer: what their drivers let them take of it."""

from vram_llm.machine.types import DeviceKind
from vram_llm.units import GIB, MIB, format_bytes

_SMALL_MAC_BYTES = 32 * GIB


def most_bytes(kind: DeviceKind, total_bytes: int) -> int:
    """Bytes of the computer's `total_bytes` that graphics may use.

    Metal: recommendedMaxWorkingSetSize, which llama.cpp takes for the device's memory, is two thirds of 8 to
    32 GiB and three quarters of more in published logs of llama.cpp (21,845 of 32,768 MiB, 73,728 of 98,304);
    macOS 26 allows more (107.5 of 128 GiB). Others may use all that is free.
    """
    if kind is not DeviceKind.METAL:
        return total_bytes
    return total_bytes * 2 // 3 if total_bytes <= _SMALL_MAC_BYTES else total_bytes * 3 // 4


def limit_note(name: str, kind: DeviceKind, total_bytes: int) -> str | None:
    """How to let graphics use what a plan takes for granted, or more; None if the driver has no limit."""
    if kind is DeviceKind.METAL:
        most = format_bytes(most_bytes(kind, total_bytes))
        wired_mib = (total_bytes - total_bytes // 8) // MIB
        return (
            f"macOS lets {name} use {most}; `sudo sysctl iogpu.wired_limit_mb={wired_mib}` lets it use more"
        )
    if name.startswith("AMD Radeon"):
        pages = (total_bytes - total_bytes // 16) // 4096
        return (
            f"Linux lets {name} use half of the memory; the plan needs the kernel's option ttm.pages_limit="
            f"{pages}, or memory that the firmware sets aside, where it takes more"
        )
    return None
