"""Graphics that the operating system lists, and notes on how to use those that llama.cpp does not."""

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from vram_llm.machine.backend_devices import Backends, SetAside
from vram_llm.machine.build_command import build_command
from vram_llm.machine.system_files import read_text
from vram_llm.machine.types import Device, DeviceKind

_PCI_VENDORS = {"0x1002": "AMD", "0x8086": "Intel"}
_BUS_ID = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_KINDS = {  # of back ends that can drive a maker's graphics, the preferred one first
    "AMD": (DeviceKind.VULKAN, DeviceKind.ROCM),
    "Intel": (DeviceKind.VULKAN, DeviceKind.SYCL),
    "Apple": (DeviceKind.METAL,),
}


@dataclass(frozen=True, slots=True)
class Graphics:
    """Graphics of a maker whose driver is not asked. `pci_bus_id` is None if unknown."""

    maker: str
    pci_bus_id: str | None = None


def read_graphics(root: Path) -> tuple[Graphics, ...]:
    """Graphics of AMD, Intel and Apple in this machine, from the kernel's files under `root`."""
    listed = []
    for path in sorted(root.glob("sys/class/drm/card*/device/vendor")):
        maker = _PCI_VENDORS.get(read_text(path))
        if maker:
            bus_id = path.parent.resolve().name
            listed.append(Graphics(maker, bus_id if _BUS_ID.fullmatch(bus_id) else None))
    if (root / "dev/kfd").exists() and not any(graphics.maker == "AMD" for graphics in listed):
        listed.append(Graphics("AMD"))
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        listed.append(Graphics("Apple"))
    return tuple(listed)


def read_set_aside(root: Path) -> dict[str, SetAside]:
    """Memory set aside for AMD's graphics by PCI bus id, as amdgpu reports it; of a card, its own memory."""
    found = {}
    for path in root.glob("sys/class/drm/card*/device/mem_info_vram_total"):
        total, used = read_text(path), read_text(path.with_name("mem_info_vram_used"))
        if total.isdecimal() and used.isdecimal():
            bytes_of = SetAside(int(total), max(int(total) - int(used), 0))
            found[path.parent.resolve().name] = bytes_of
    return found


def notes(
    listed: tuple[Graphics, ...], backends: Backends, devices: tuple[Device, ...], root: Path
) -> tuple[str, ...]:
    """A sentence for each maker for whose graphics the build has no back end.

    Intel's get none if another device is there: most are part of a processor, next to a better card.
    """
    used = {device.pci_bus_id for device in devices} - {None}
    makers = {graphics.maker for graphics in listed if graphics.pci_bus_id not in used}
    if devices:
        makers.discard("Intel")
    sentences = []
    for maker in sorted(makers):
        kinds = _KINDS[maker]
        if not backends.is_known or backends.kinds.intersection(kinds):
            continue
        kind = DeviceKind.ROCM if maker == "AMD" and (root / "dev/kfd").exists() else kinds[0]
        sentences.append(
            f"{maker} graphics cannot be used by the installed llama.cpp. This builds one that can: "
            f"{build_command(kind)} (or describe the card with --gpu, to plan without it)"
        )
    return tuple(sentences)
