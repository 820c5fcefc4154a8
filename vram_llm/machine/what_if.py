"""Parse descriptions of what-if rigs: cards to plan for that are not in the machine, and their host.

rig  = [spec {"+" spec}] ["on" HOST]
spec = [COUNT "x"] (NAME [SIZE] | SIZE) {"@" (SIZE | BANDWIDTH | SLOT | BACKEND)}
slot = ["PCIe" GENERATION] ["x" LANES]

"RTX 4080 Laptop"              a card of the catalog
"RTX 4090 + 2x RTX 3060 12GB"  three of them
"2080 Ti 22GB"                 a card with another memory size; the catalog's nearest variant
"24GB"                         a CUDA card of that size with unknown bandwidth
"2x24GB@1008GB/s"              two such cards with a bandwidth
"RTX 3090 @ PCIe 3 x4"         a card in such a slot; the default is PCIe 4 with 16 lanes
"RX 7900 XTX @ Vulkan"         a card driven by llama.cpp's Vulkan back end, in place of its maker's
"RTX 3090 on 64GiB DDR4-3200"  a card in another computer (what_if_host.py)
"DGX Spark", "M4 Max 64GB"     a computer whose graphics use its memory

GB of memory means GiB, as card makers write it: a "24GB" card has 24 GiB. Bandwidths are decimal.
"""

import dataclasses
import re
from collections.abc import Sequence

from vram_llm.errors import BadHost, UnknownDevice
from vram_llm.machine import catalog, nvml, unified_memory
from vram_llm.machine.datasheet_speed import pcie_link
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Link, Source
from vram_llm.machine.what_if_host import (
    NO_DESCRIPTION,
    HostDescription,
    WhatIfHost,
    parse_description,
    parse_disk,
    parse_host,
)
from vram_llm.units import GIB, MIB, format_bytes, parse_bytes, parse_bytes_per_s

MAX_CARDS = 64
EXAMPLE = '"RTX 4090 + 2x RTX 3060"'
ON_EXAMPLE = '"RTX 3090 on 64GiB DDR4-3200 2ch"'
_LONGEST_SPEC = 200
_SLOT_GENERATION, _SLOT_LANES = 4, 16  # the default
_LARGEST_BYTES = 4096 * GIB
_PLUS = re.compile(r"(?<!max)\+", re.IGNORECASE)  # "Ryzen AI Max+ 395" is one name
# "7900xt" and "7900xtx" are names of cards, and no counts.
_COUNT = re.compile(r"(\d+)\s*(?:x(?!tx?\b)|×|\*)\s*(\S.*)", re.IGNORECASE)
# "4080m" and "4080" are names of cards, so a size needs a unit, and mebibytes need "MB" or "MiB".
_ON = re.compile(r"(?:^|(?<=\s))on(?=\s|$)", re.IGNORECASE)
_SLOT = re.compile(r"(?:(?:pcie|gen|pcie gen)\s*(\d)(?:\.0)?)?\s*(?:x\s*(\d{1,3}))?", re.IGNORECASE)
_SIZE = re.compile(r"(?<![\w.])\d+(?:\.\d+)?\s*(?:g|t|[kmgt]i?b)\b", re.IGNORECASE)
_MAKERS_UNIT = re.compile(r"(?<=[kmgt])b", re.IGNORECASE)

# (alignment in bytes, row padding in elements) of each back end's buffers. ROCm is ggml-cuda compiled for
# HIP. Metal: get_alignment of ggml-metal.cpp. Vulkan's alignment is the driver's
# minStorageBufferOffsetAlignment (ggml_backend_vk_buffer_type_get_alignment), at most 64 on the catalog's
# cards: with 128, estimates err on the high side.
_BUFFERS = {
    DeviceKind.CUDA: (nvml.ALIGNMENT_BYTES, nvml.ROW_PADDING),
    DeviceKind.ROCM: (nvml.ALIGNMENT_BYTES, nvml.ROW_PADDING),
    DeviceKind.METAL: (32, 0),
}
_OTHER_BUFFERS = (128, 0)
_BACKEND_NAMES = {
    DeviceKind.CUDA: "CUDA",
    DeviceKind.ROCM: "ROCm",
    DeviceKind.VULKAN: "Vulkan",
    DeviceKind.SYCL: "SYCL",
    DeviceKind.METAL: "Metal",
}
_BACKENDS = {name.lower(): kind for kind, name in _BACKEND_NAMES.items()}
_MAKERS_BACKENDS = {
    "NVIDIA": (DeviceKind.CUDA, DeviceKind.VULKAN),
    "AMD": (DeviceKind.ROCM, DeviceKind.VULKAN),
    "Intel": (DeviceKind.SYCL, DeviceKind.VULKAN),
    "Apple": (DeviceKind.METAL,),
}


@dataclasses.dataclass(frozen=True, slots=True)
class WhatIfRig:
    """The parts of a what-if machine."""

    devices: tuple[Device, ...]
    host: Host | None  # None: this computer
    disk_bytes_per_s: Fact | None  # of the host's disk; None: not described
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _CardSpec:
    """The description of one or more equal cards. None: not given."""

    text: str  # the name or size of the card
    count: int
    card: catalog.Card | None
    memory_bytes: int | None
    bandwidth_bytes_per_s: float | None
    generation: int | None  # of the slot
    lanes: int | None  # of the slot
    backend: DeviceKind | None

    @property
    def is_unified(self) -> bool:
        """Whether the card is the graphics of a computer and uses its memory."""
        return self.card is not None and self.card.shares_host_memory


def parse_rigs(rigs: Sequence[str], description: HostDescription = NO_DESCRIPTION) -> WhatIfRig:
    """The cards of all `rigs`, called GPU0, GPU1, ... in this order, and their host.

    The host is described by `description`, or by one of the rigs. Raises UnknownDevice for a card or a
    processor that is not in the catalogs, and for a bad description of a card; BadHost for a bad description
    of the host.
    """
    cards = []
    for rig in rigs:
        before, *on = (part.strip() for part in _ON.split(rig, maxsplit=1))
        cards += [before] if before or not on else []
        for after in on:
            if not after:
                raise BadHost(f'{rig[:_LONGEST_SPEC]!r} lacks a host after "on"; write it like {ON_EXAMPLE}')
            description += parse_description(after)
    specs = [_parse_spec(text) for text in _split_specs(cards)]
    if sum(spec.count for spec in specs) > MAX_CARDS:
        n_cards = sum(spec.count for spec in specs)
        raise UnknownDevice(f"{n_cards} cards are more than a plan takes: at most {MAX_CARDS}.")
    host = _host(specs, description)
    generation = host.pcie_generation if host is not None else None
    devices = [device for spec in specs for device in _devices(spec, generation or _SLOT_GENERATION, host)]
    return WhatIfRig(
        devices=tuple(dataclasses.replace(device, id=f"GPU{i}") for i, device in enumerate(devices)),
        host=None if host is None else host.host,
        disk_bytes_per_s=None if description.disk is None else parse_disk(description.disk),
        notes=(*_card_notes(specs, host), *(() if host is None else host.notes)),
    )


def names_host(rig: str) -> bool:
    """Whether `rig` describes its host, after "on" or as a computer whose graphics use its memory.

    Raises UnknownDevice as `parse_rigs`.
    """
    before, *on = (part.strip() for part in _ON.split(rig, maxsplit=1))
    return bool(on) or any(_parse_spec(spec).is_unified for spec in _split_specs([before]))


def _host(specs: Sequence[_CardSpec], description: HostDescription) -> WhatIfHost | None:
    """The described host, or the computer that has a card of `specs` as its graphics; None without both."""
    computers = [spec for spec in specs if spec.is_unified]
    if sum(spec.count for spec in computers) > 1:
        names = " and ".join(dict.fromkeys(spec.text for spec in computers))
        raise BadHost(
            f"{names}: each is a computer of its own; plan for one, and give others as workers, with --rpc"
        )
    if not computers:
        return None if description.ram is None and description.cpu is None else parse_host(description)
    (spec,) = computers
    assert spec.card is not None
    if description.ram is not None and spec.memory_bytes is not None:
        raise BadHost(f"the memory of {spec.text} is given twice, also as {description.ram}; give it once")
    if description.ram is None:
        size = spec.memory_bytes or spec.card.memory_bytes
        if size is None:
            raise UnknownDevice(
                f"{spec.text!r}: this device uses the computer's memory, so say how much there is: "
                f"{spec.text} 64GB."
            )
        description = dataclasses.replace(description, ram=f"{round(size / MIB)}MiB")
    computer = parse_host(description, spec.card.name)
    bandwidth = _bandwidth_of(spec, computer.host)
    host = dataclasses.replace(computer.host, bandwidth_bytes_per_s=bandwidth)
    return dataclasses.replace(computer, host=host)


def _devices(spec: _CardSpec, generation: int, host: WhatIfHost | None) -> tuple[Device, ...]:
    """The cards of one description, all called GPU0. `generation` is that of a slot that is not described."""
    card = spec.card
    if spec.is_unified:
        assert host is not None
        return (_integrated_graphics(spec, host.host),)
    memory_source, memory_bytes = Source.GIVEN, spec.memory_bytes
    if memory_bytes is None:
        assert card is not None
        assert card.memory_bytes is not None  # cards without shared memory have a size
        memory_source, memory_bytes = Source.CATALOG, card.memory_bytes
    device = Device(
        id="GPU0",
        name=_device_name(card, memory_bytes),
        kind=_kind(spec),
        other_kind=_other_kind(spec),
        total_bytes=memory_bytes,
        free_bytes=memory_bytes,
        memory_source=memory_source,
        bandwidth_bytes_per_s=_bandwidth_of(spec, None),
        compute_capability=card.compute_capability if card else None,
        what_if=True,
        link=_link(spec, generation),
    )
    return (_with_buffers(device),) * spec.count


def _integrated_graphics(spec: _CardSpec, host: Host) -> Device:
    """Graphics that use the memory of `host`."""
    card = spec.card
    assert card is not None
    max_bytes = unified_memory.max_graphics_bytes(card.kind, host.total_bytes)
    return _with_buffers(
        Device(
            id="GPU0",
            name=card.name,
            kind=_kind(spec),
            other_kind=_other_kind(spec),
            total_bytes=max_bytes,
            free_bytes=min(max_bytes, host.available_bytes),
            memory_source=Source.CATALOG if host.total_bytes == card.memory_bytes else Source.GIVEN,
            bandwidth_bytes_per_s=host.bandwidth_bytes_per_s,
            compute_capability=card.compute_capability,
            what_if=True,
            shares_host_memory=True,
        )
    )


def _kind(spec: _CardSpec) -> DeviceKind:
    own = spec.card.kind if spec.card else DeviceKind.CUDA
    return spec.backend or own


def _other_kind(spec: _CardSpec) -> DeviceKind | None:
    """ROCm's cards are driven by Vulkan as often."""
    return DeviceKind.VULKAN if spec.backend is None and _kind(spec) is DeviceKind.ROCM else None


def _with_buffers(device: Device) -> Device:
    alignment_bytes, row_padding = _BUFFERS.get(device.kind, _OTHER_BUFFERS)
    return dataclasses.replace(device, alignment_bytes=alignment_bytes, row_padding=row_padding)


def _bandwidth_of(spec: _CardSpec, host: Host | None) -> Fact | None:
    """The described bandwidth, else that of `host`, whose memory the card uses, else the catalog's."""
    if spec.bandwidth_bytes_per_s is not None:
        return Fact(spec.bandwidth_bytes_per_s, Source.GIVEN)
    if host is not None and host.bandwidth_bytes_per_s is not None:
        return host.bandwidth_bytes_per_s
    if spec.card is not None and spec.card.bandwidth_bytes_per_s is not None:
        return Fact(spec.card.bandwidth_bytes_per_s, Source.CATALOG)
    return None


def _link(spec: _CardSpec, generation: int) -> Link | None:
    """The link of a card in its slot; None if card and slot are unknown.

    `generation` is that of a slot that is not described.
    """
    if spec.card is None:
        return pcie_link(spec.generation, spec.lanes)
    if spec.card.pcie_generation is None or spec.card.pcie_lanes is None:
        return None
    return pcie_link(
        min(spec.card.pcie_generation, spec.generation or generation),
        min(spec.card.pcie_lanes, spec.lanes or _SLOT_LANES),
    )


def _card_notes(specs: Sequence[_CardSpec], host: WhatIfHost | None) -> tuple[str, ...]:
    """The catalog's notes on cards, each once, and notes on limits of graphics."""
    cards = [spec.card for spec in specs if spec.card is not None]
    notes = [f"{card.label}: {card.note}" for card in cards if card.note and not card.shares_host_memory]
    for card in (card for card in cards if card.shares_host_memory):
        assert host is not None
        notes.append(nvml.shared_memory_note(card.name))
        limit = unified_memory.limit_note(card.name, card.kind, host.host.total_bytes)
        notes += [] if limit is None else [limit]
    return tuple(dict.fromkeys(notes))


def _split_specs(rigs: Sequence[str]) -> list[str]:
    """The descriptions of cards between each "+". Raises UnknownDevice if one is empty."""
    specs = []
    for rig in rigs:
        parts = [part.strip() for part in _PLUS.split(rig)]
        if len(parts) > 1 and not all(parts):
            raise UnknownDevice(
                f'{rig[:_LONGEST_SPEC]!r} lacks a card next to a "+"; write it like {EXAMPLE}'
            )
        specs += parts
    return specs


def _device_name(card: catalog.Card | None, memory_bytes: int) -> str:
    """The label of the catalog's variant, or the card's name if no variant has this memory size."""
    if card is None:
        return f"{format_bytes(memory_bytes)} GPU"
    is_variant = memory_bytes == card.memory_bytes or round(memory_bytes / GIB) == card.memory_gib
    return card.label if is_variant else card.name


def _parse_spec(spec: str) -> _CardSpec:
    """Parse the description of one or more equal cards. Raises UnknownDevice."""
    if len(spec) > _LONGEST_SPEC:
        raise UnknownDevice(
            f"a card's name of {len(spec)} characters is too long; write it like {catalog.FREE_FORM}."
        )
    name, *after_at = (part.strip() for part in spec.split("@"))
    count, name = _parse_count(spec, name)
    memory_bytes, bandwidth, slot, backend = None, None, None, None
    if _SIZE.fullmatch(name):
        memory_bytes = _parse_size(spec, name)
    for part in after_at:
        if "/" in part and bandwidth is None:
            bandwidth = _parse_bandwidth(spec, part)
        elif _SIZE.fullmatch(part) and memory_bytes is None:
            memory_bytes = _parse_size(spec, part)
        elif (match := _SLOT.fullmatch(part)) is not None and part and slot is None:
            slot = match
        elif part.lower() in _BACKENDS and backend is None:
            backend = _BACKENDS[part.lower()]
        else:
            raise UnknownDevice(
                f"{spec!r}: {part!r} after @ is neither one memory size, one bandwidth, one slot nor one "
                f"back end; write it like {catalog.FREE_FORM}, RTX 3090@PCIe 4 x8 or RX 7900 XTX@Vulkan."
            )
    card = None
    if not _SIZE.fullmatch(name):
        card, size_in_name = _find_card(spec, name, memory_bytes)
        memory_bytes = memory_bytes or size_in_name
    _check_backend(spec, card, backend)
    generation, lanes = (None, None) if slot is None else slot.groups()
    return _CardSpec(
        text=name,
        count=count,
        card=card,
        memory_bytes=memory_bytes,
        bandwidth_bytes_per_s=bandwidth,
        generation=_parse_slot_number(spec, generation, 6),
        lanes=_parse_slot_number(spec, lanes, 16),
        backend=backend,
    )


def _check_backend(spec: str, card: catalog.Card | None, backend: DeviceKind | None) -> None:
    """Raises UnknownDevice if llama.cpp does not drive the card by this back end."""
    maker = "NVIDIA" if card is None else next((name for name in _MAKERS_BACKENDS if name in card.name), "")
    allowed = _MAKERS_BACKENDS.get(maker)
    if backend is not None and allowed is not None and backend not in allowed:
        names = " or ".join(_BACKEND_NAMES[kind] for kind in allowed)
        raise UnknownDevice(f"{spec!r}: llama.cpp drives cards of {maker} by {names}.")


def _parse_slot_number(spec: str, digits: str | None, limit: int) -> int | None:
    if digits is None:
        return None
    if not 0 < int(digits) <= limit:
        raise UnknownDevice(f"{spec!r}: a slot is of PCIe 1 to 6 and has 1 to 16 lanes; write @PCIe 4 x8.")
    return int(digits)


def _find_card(spec: str, name: str, memory_bytes: int | None) -> tuple[catalog.Card, int | None]:
    """The card called `name`, and the memory size in `name` if the catalog has no variant of that size."""
    try:
        return catalog.find_card(name, memory_bytes), None
    except UnknownDevice:
        sizes = _SIZE.findall(name)
        rest = _SIZE.sub(" ", name).strip()
        if len(sizes) != 1 or memory_bytes is not None or not any(map(str.isalnum, rest)):
            raise
    size_in_name = _parse_size(spec, sizes[0])
    return catalog.find_card(rest, size_in_name), size_in_name


def _parse_count(spec: str, text: str) -> tuple[int, str]:
    """The count in "2x RTX 3060", and the rest; 1 and the text if it has no count. Raises UnknownDevice."""
    match = _COUNT.fullmatch(text)
    if match is None:
        return 1, text
    digits = match[1].lstrip("0")
    if not digits or len(digits) > 4 or int(digits) > MAX_CARDS:
        raise UnknownDevice(f"{spec!r}: a count of cards is from 1 to {MAX_CARDS}.")
    return int(digits), match[2]


def _parse_size(spec: str, text: str) -> int:
    try:
        size = parse_bytes(_MAKERS_UNIT.sub("ib", text))
    except (ValueError, OverflowError):
        size = 0
    if not 0 < size <= _LARGEST_BYTES:
        raise UnknownDevice(f"{spec!r}: {text} is not a size a card can have; write it like 24GB.")
    return size


def _parse_bandwidth(spec: str, text: str) -> float:
    try:
        bandwidth = parse_bytes_per_s(text)
    except (ValueError, OverflowError):
        bandwidth = 0.0
    if bandwidth <= 0:
        raise UnknownDevice(f"{spec!r}: {text} is not a bandwidth; write it like 1008GB/s.")
    return bandwidth
