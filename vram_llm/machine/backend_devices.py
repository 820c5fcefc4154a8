"""The devices that llama.cpp's back ends list, joined with the cards that NVML describes. Pure functions."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from vram_llm.machine import nvml
from vram_llm.machine.build_command import REMEDY, build_command
from vram_llm.machine.types import Device, DeviceKind, Host, Source

# By the name of ggml's registry. If several back ends drive a card, the first of them here is used.
KINDS = {
    "CUDA": DeviceKind.CUDA,
    "ROCm": DeviceKind.ROCM,
    "SYCL": DeviceKind.SYCL,
    "MTL": DeviceKind.METAL,
    "Vulkan": DeviceKind.VULKAN,
}
_PREFERENCE = tuple(KINDS)
_ROW_PADDING = {DeviceKind.CUDA: nvml.ROW_PADDING, DeviceKind.ROCM: nvml.ROW_PADDING}
_SOFTWARE = "llvmpipe"  # Mesa's Vulkan on the processor, which reports itself as a card with its own memory


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDevice:
    """A GPU that a back end lists: ggml_backend_dev_props, and the alignment of its buffer type."""

    registry: str  # ggml's name of the back end: "CUDA", "ROCm", "Vulkan", "MTL", "SYCL", ...
    name: str  # "CUDA0"
    description: str
    total_bytes: int
    free_bytes: int
    alignment_bytes: int
    is_integrated: bool
    pci_bus_id: str | None  # "0000:01:00.0", lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """The back ends of the installed llama.cpp, and the devices that they list."""

    built: tuple[str, ...] = ()  # the registries of the build
    devices: tuple[BackendDevice, ...] = ()
    notes: tuple[str, ...] = ()
    is_known: bool = True  # False: llama.cpp could not list its devices
    libraries: tuple[str, ...] = ()  # of drivers, that it has loaded: "libnccl.so.2.27.5"

    @property
    def kinds(self) -> frozenset[DeviceKind]:
        """The kinds of devices that llama.cpp is built for, present or not."""
        return frozenset(KINDS[name] for name in self.built if name in KINDS)

    def uses_nccl(self, environ: Mapping[str, str]) -> bool | None:
        """Whether its CUDA back end adds sums of several cards up by NCCL; None: it has no such back end.

        $GGML_CUDA_ALLREDUCE of ggml-cuda.cu chooses another way.
        """
        if "CUDA" not in self.built:
            return None
        is_loaded = any(name.startswith("libnccl") for name in self.libraries)
        return is_loaded and environ.get("GGML_CUDA_ALLREDUCE", "nccl") == "nccl"


class DedicatedMemory(NamedTuple):
    """Memory that only graphics can use: of integrated graphics, what the firmware sets aside for them."""

    total_bytes: int
    free_bytes: int


def join_devices(
    cards: Iterable[Device],
    hidden: Iterable[Device],
    backends: Backends,
    host: Host,
    dedicated: Mapping[str, DedicatedMemory] = MappingProxyType({}),
) -> nvml.DetectedDevices:
    """The devices to plan for: NVML's `cards` with their back ends, then the other devices of the back ends.

    A card without a back end in the build stays, and a note gives the command that builds one. A card that
    its back end does not list is left out, with a note. `hidden` are cards that the user hides: no back end
    brings them back, and their numbers are not given to other devices. `dedicated` is the dedicated memory by
    PCI bus id.
    """
    cards, hidden = tuple(cards), tuple(hidden)
    listed = _one_per_card(backends.devices)
    by_bus_id = {device.pci_bus_id: device for device in listed if device.pci_bus_id is not None}
    devices: list[Device] = []
    notes = list(backends.notes)
    for card in cards:
        backend_device = by_bus_id.get(card.pci_bus_id or "")
        if backend_device is not None:
            devices.append(_with_backend(card, backend_device))
        elif not backends.is_known:
            devices.append(card)
        elif card.kind in backends.kinds:
            notes.append(
                f"{card.name} ({card.id}) is left out: llama.cpp's CUDA back end does not list it; "
                "CUDA_VISIBLE_DEVICES hides it, or the build leaves out its compute capability."
            )
        else:
            devices.append(card)
            notes.append(_no_backend_note(f"{card.name} ({card.id})", card.kind))
    known_bus_ids = {card.pci_bus_id for card in (*cards, *hidden)} - {None}
    number = 1 + max((int(card.id.removeprefix("GPU")) for card in (*cards, *hidden)), default=-1)
    for device in listed:
        if device.pci_bus_id in known_bus_ids:
            continue
        if device.registry not in KINDS:
            notes.append(
                f"{device.description} is left out of plans: its back end, {device.registry}, is unknown."
            )
            continue
        devices.append(make_device(device, number, host, dedicated.get(device.pci_bus_id or "")))
        number += 1
    notes += [nvml.shared_memory_note(device.name) for device in devices if device.shares_host_memory]
    return nvml.DetectedDevices(tuple(devices), tuple(notes))


def _one_per_card(devices: Iterable[BackendDevice]) -> tuple[BackendDevice, ...]:
    """`devices` with each card once: two back ends may drive a card, or one may list it twice."""

    def rank(device: BackendDevice) -> int:
        return _PREFERENCE.index(device.registry) if device.registry in _PREFERENCE else len(_PREFERENCE)

    bus_ids: set[str] = set()
    unique = []
    for device in sorted(devices, key=rank):
        if device.pci_bus_id is None or device.pci_bus_id not in bus_ids:
            unique.append(device)
            bus_ids.add(device.pci_bus_id or "")
    return tuple(unique)


def _with_backend(card: Device, backend_device: BackendDevice) -> Device:
    """`card` with the kind, the name and the buffer rules that it has in its back end."""
    kind = KINDS.get(backend_device.registry, card.kind)
    return dataclasses.replace(
        card,
        kind=kind,
        ggml_name=backend_device.name,
        alignment_bytes=backend_device.alignment_bytes,
        row_padding=_ROW_PADDING.get(kind, 0),
        shares_host_memory=card.shares_host_memory or _shares_host_memory(backend_device),
    )


def make_device(
    backend_device: BackendDevice, number: int, host: Host, dedicated: DedicatedMemory | None = None
) -> Device:
    """The device "GPU<number>", which only llama.cpp describes.

    If it uses the memory of `host`, `dedicated` is its dedicated memory. Raises KeyError if its registry is
    not in KINDS.
    """
    kind = KINDS[backend_device.registry]
    free_bytes, dedicated_bytes = backend_device.free_bytes, 0
    is_shared = _shares_host_memory(backend_device)
    if is_shared:
        dedicated_bytes = 0 if dedicated is None else _free_dedicated_bytes(backend_device, dedicated)
        free_bytes = min(free_bytes, dedicated_bytes + host.available_bytes)
    return Device(
        id=f"GPU{number}",
        name=backend_device.description,
        kind=kind,
        total_bytes=backend_device.total_bytes,
        free_bytes=free_bytes,
        memory_source=Source.DRIVER,
        alignment_bytes=backend_device.alignment_bytes,
        row_padding=_ROW_PADDING.get(kind, 0),
        pci_bus_id=backend_device.pci_bus_id,
        ggml_name=backend_device.name,
        shares_host_memory=is_shared,
        set_aside_bytes=dedicated_bytes,
    )


def _free_dedicated_bytes(backend_device: BackendDevice, dedicated: DedicatedMemory) -> int:
    """Free bytes of a device that are in its dedicated memory.

    Vulkan reports the sum of dedicated memory and of the host's memory that the device may use
    (ggml_backend_vk_get_device_memory of ggml-vulkan.cpp). ROCm reports only one of them.
    """
    if backend_device.registry == "ROCm":
        is_dedicated = backend_device.total_bytes <= dedicated.total_bytes
        return backend_device.free_bytes if is_dedicated else 0
    return min(backend_device.free_bytes, dedicated.free_bytes)


def _shares_host_memory(backend_device: BackendDevice) -> bool:
    is_software = backend_device.description.startswith(_SOFTWARE)
    return backend_device.is_integrated or backend_device.registry == "MTL" or is_software


def _no_backend_note(name: str, kind: DeviceKind) -> str:
    return f"{name} cannot be used by the installed llama.cpp. {REMEDY}: {build_command(kind)}"
