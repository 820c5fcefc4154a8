"""Devices as llama.cpp's back ends list them, joined with the cards that NVML describes. Pure."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from vram_llm.machine import nvml
from vram_llm.machine.build_command import build_command
from vram_llm.machine.types import Device, DeviceKind, Host, Source

# By the name of ggml's registry. If several drive the same card, the first one here is used.
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
    """A GPU of ggml's registry: ggml_backend_dev_props and the alignment of its buffer type."""

    registry: str  # "CUDA", "ROCm", "Vulkan", "MTL", "SYCL", ...
    name: str  # "CUDA0"
    description: str
    total_bytes: int
    free_bytes: int
    alignment_bytes: int
    is_integrated: bool
    pci_bus_id: str | None  # "0000:01:00.0", lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class Backends:
    """The back ends and devices of the installed llama.cpp. `is_known` is False if it could not be asked."""

    built: tuple[str, ...] = ()  # names of the registries in the build
    devices: tuple[BackendDevice, ...] = ()
    notes: tuple[str, ...] = ()
    is_known: bool = True

    @property
    def kinds(self) -> frozenset[DeviceKind]:
        """The kinds of devices that llama.cpp is built for, present or not."""
        return frozenset(KINDS[name] for name in self.built if name in KINDS)


class SetAside(NamedTuple):
    """Memory that the firmware keeps from the host for integrated graphics alone."""

    total_bytes: int
    free_bytes: int


def join(
    cards: Iterable[Device],
    hidden: Iterable[Device],
    backends: Backends,
    host: Host,
    set_aside: Mapping[str, SetAside] = MappingProxyType({}),
) -> nvml.Cards:
    """The devices to plan for: `cards` as llama.cpp drives them, then its other devices.

    A card without a back end in the build stays, and a note gives the command that builds one. A card that
    its back end does not list is left out. `hidden` are cards that the user hides; they keep their numbers.
    `set_aside` is by PCI bus id.
    """
    cards, hidden = tuple(cards), tuple(hidden)
    rows = _one_per_card(backends.devices)
    by_bus = {row.pci_bus_id: row for row in rows if row.pci_bus_id is not None}
    devices: list[Device] = []
    notes = list(backends.notes)
    for card in cards:
        row = by_bus.get(card.pci_bus_id or "")
        if row is not None:
            devices.append(_driven_by(card, row))
        elif not backends.is_known:
            devices.append(card)
        elif card.kind in backends.kinds:
            notes.append(
                f"{card.name} ({card.id}) is left out: llama.cpp's CUDA back end does not list it; "
                "CUDA_VISIBLE_DEVICES hides it, or the build leaves out its compute capability."
            )
        else:
            devices.append(card)
            notes.append(_not_built(f"{card.name} ({card.id})", card.kind))
    known = {card.pci_bus_id for card in (*cards, *hidden)} - {None}
    number = 1 + max((int(card.id.removeprefix("GPU")) for card in (*cards, *hidden)), default=-1)
    for row in rows:
        if row.pci_bus_id in known:
            continue
        if row.registry not in KINDS:
            notes.append(f"{row.description} is left out of plans: its back end, {row.registry}, is unknown.")
            continue
        devices.append(device_of(row, number, host, set_aside.get(row.pci_bus_id or "")))
        number += 1
    notes += [nvml.shared_memory_note(device.name) for device in devices if device.shares_host_memory]
    return nvml.Cards(tuple(devices), tuple(notes))


def _one_per_card(rows: Iterable[BackendDevice]) -> tuple[BackendDevice, ...]:
    """`rows` with one row per card: two back ends may drive a card, or one may list it twice."""

    def rank(row: BackendDevice) -> int:
        return _PREFERENCE.index(row.registry) if row.registry in _PREFERENCE else len(_PREFERENCE)

    taken: set[str] = set()
    unique = []
    for row in sorted(rows, key=rank):
        if row.pci_bus_id is None or row.pci_bus_id not in taken:
            unique.append(row)
            taken.add(row.pci_bus_id or "")
    return tuple(unique)


def _driven_by(card: Device, row: BackendDevice) -> Device:
    """`card` with the buffer rules and the name of its back end, from `row`."""
    kind = KINDS.get(row.registry, card.kind)
    return dataclasses.replace(
        card,
        kind=kind,
        ggml_name=row.name,
        alignment_bytes=row.alignment_bytes,
        row_padding=_ROW_PADDING.get(kind, 0),
        shares_host_memory=card.shares_host_memory or _shares_host_memory(row),
    )


def device_of(row: BackendDevice, number: int, host: Host, set_aside: SetAside | None = None) -> Device:
    """A device that only llama.cpp describes. Raises KeyError where its registry is not in KINDS."""
    kind = KINDS[row.registry]
    free_bytes, is_shared, own_bytes = row.free_bytes, _shares_host_memory(row), 0
    if is_shared:
        own_bytes = 0 if set_aside is None else _own_bytes(row, set_aside)
        free_bytes = min(free_bytes, own_bytes + host.available_bytes)
    return Device(
        id=f"GPU{number}",
        name=row.description,
        kind=kind,
        total_bytes=row.total_bytes,
        free_bytes=free_bytes,
        memory_source=Source.DRIVER,
        alignment_bytes=row.alignment_bytes,
        row_padding=_ROW_PADDING.get(kind, 0),
        pci_bus_id=row.pci_bus_id,
        ggml_name=row.name,
        shares_host_memory=is_shared,
        set_aside_bytes=own_bytes,
    )


def _own_bytes(row: BackendDevice, set_aside: SetAside) -> int:
    """Those of a device's free bytes that are set aside for it.

    Vulkan counts them together with the host's memory that the device may use (ggml-vulkan.cpp,
    ggml_backend_vk_get_device_memory); ROCm's figures are of one of both.
    """
    if row.registry == "ROCm":
        return row.free_bytes if row.total_bytes <= set_aside.total_bytes else 0
    return min(row.free_bytes, set_aside.free_bytes)


def _shares_host_memory(row: BackendDevice) -> bool:
    return row.is_integrated or row.registry == "MTL" or row.description.startswith(_SOFTWARE)


def _not_built(name: str, kind: DeviceKind) -> str:
    return (
        f"{name} cannot be used by the installed llama.cpp. This builds one that can: {build_command(kind)}"
    )
