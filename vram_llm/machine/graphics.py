"""Graphics of AMD, Intel and Apple that the operating system lists, and notes on those without a back end."""

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from vram_llm.machine.backend_devices import Backends, DedicatedMemory
from vram_llm.machine.build_command import REMEDY, build_command
from vram_llm.machine.system_files import read_text
from vram_llm.machine.types import Device, DeviceKind

_PCI_VENDORS = {"0x1002": "AMD", "0x8086": "Intel"}
_BUS_ID = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_KINDS = {  # back ends that can drive a maker's graphics; the first is preferred
    "AMD": (DeviceKind.VULKAN, DeviceKind.ROCM),
    "Intel": (DeviceKind.VULKAN, DeviceKind.SYCL),
    "Apple": (DeviceKind.METAL,),
}


@dataclass(frozen=True, slots=True)
class GraphicsAdapter:
    """A graphics card or integrated graphics, as the kernel lists it."""

    maker: str  # "AMD", "Intel" or "Apple"
    pci_bus_id: str | None = None  # "0000:01:00.0"; None: unknown


def read_adapters(root: Path) -> tuple[GraphicsAdapter, ...]:
    """The graphics of AMD, Intel and Apple in this machine, from the kernel's files under `root`."""
    adapters = []
    for path in sorted(root.glob("sys/class/drm/card*/device/vendor")):
        maker = _PCI_VENDORS.get(read_text(path))
        if maker:
            bus_id = path.parent.resolve().name
            adapters.append(GraphicsAdapter(maker, bus_id if _BUS_ID.fullmatch(bus_id) else None))
    if (root / "dev/kfd").exists() and not any(adapter.maker == "AMD" for adapter in adapters):
        adapters.append(GraphicsAdapter("AMD"))
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        adapters.append(GraphicsAdapter("Apple"))
    return tuple(adapters)


def read_dedicated_memory(root: Path) -> dict[str, DedicatedMemory]:
    """The dedicated memory of AMD's graphics by PCI bus id, as the driver amdgpu reports it."""
    by_bus_id = {}
    for path in root.glob("sys/class/drm/card*/device/mem_info_vram_total"):
        total, used = read_text(path), read_text(path.with_name("mem_info_vram_used"))
        if total.isdecimal() and used.isdecimal():
            free_bytes = max(int(total) - int(used), 0)
            by_bus_id[path.parent.resolve().name] = DedicatedMemory(int(total), free_bytes)
    return by_bus_id


def missing_backend_notes(
    adapters: tuple[GraphicsAdapter, ...], backends: Backends, devices: tuple[Device, ...], root: Path
) -> tuple[str, ...]:
    """A sentence for each maker of graphics for which llama.cpp's build has no back end.

    Intel gets no sentence if there is another device: most of its graphics are part of a processor.
    """
    used = {device.pci_bus_id for device in devices} - {None}
    makers = {adapter.maker for adapter in adapters if adapter.pci_bus_id not in used}
    if devices:
        makers.discard("Intel")
    sentences = []
    for maker in sorted(makers):
        kinds = _KINDS[maker]
        if not backends.is_known or backends.kinds.intersection(kinds):
            continue
        kind = DeviceKind.ROCM if maker == "AMD" and (root / "dev/kfd").exists() else kinds[0]
        sentences.append(
            f"{maker} graphics cannot be used by the installed llama.cpp. {REMEDY}: "
            f"{build_command(kind)} (or describe the card with --gpu, to plan without it)"
        )
    return tuple(sentences)
