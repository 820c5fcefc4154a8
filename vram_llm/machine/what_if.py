"""Parse descriptions of what-if rigs: cards to plan for that are not in the machine, and their host.

rig  = [spec {"+" spec}] ["on" HOST]
spec = [COUNT "x"] (NAME [SIZE] | SIZE) {"@" (SIZE | BANDWIDTH | SLOT)}
slot = ["PCIe" GENERATION] ["x" LANES]

"RTX 4080 Laptop"              a card of the catalog
"RTX 4090 + 2x RTX 3060 12GB"  three of them
"2080 Ti 22GB"                 a card with another memory size; the catalog's nearest variant
"24GB"                         a CUDA card of that size with unknown bandwidth
"2x24GB@1008GB/s"              two such cards with a bandwidth
"RTX 3090 @ PCIe 3 x4"         a card in such a slot; else it is a slot of generation 4 with 16 lanes
"RTX 3090 on 64GiB DDR4-3200"  a card in another computer (what_if_host.py)
"DGX Spark", "M4 Max 64GB"     a computer whose graphics use its memory

GB is GiB here, as card makers write it: a "24GB" card has 24 GiB. Bandwidths are decimal.
"""

import dataclasses
import re
from collections.abc import Sequence

from vram_llm.errors import BadHost, UnknownDevice
from vram_llm.machine import catalog, nvml, unified_memory
from vram_llm.machine.datasheet_speed import pcie_link
from vram_llm.machine.types import Device, DeviceKind, Fact, Host, Link, Source
from vram_llm.machine.what_if_host import NO_WORDS, HostWords, WhatIfHost, parse_disk, parse_host, split_words
from vram_llm.units import GIB, MIB, format_bytes, parse_bytes, parse_bytes_per_s

MAX_CARDS = 64
EXAMPLE = '"RTX 4090 + 2x RTX 3060"'
ON_EXAMPLE = '"RTX 3090 on 64GiB DDR4-3200 2ch"'
_LONGEST_SPEC = 200
_SLOT_GENERATION, _SLOT_LANES = 4, 16  # of a slot that is not described
_LARGEST_BYTES = 4096 * GIB
_JOIN = re.compile(r"(?<!max)\+", re.IGNORECASE)  # "Ryzen AI Max+ 395" is one name
# "7900xt" and "7900xtx" are cards, not 7900 of something.
_COUNT = re.compile(r"(\d+)\s*(?:x(?!tx?\b)|×|\*)\s*(\S.*)", re.IGNORECASE)
# "4080m" is a card and "4080" is one: a size has a unit, and mebibytes are written in full.
_ON = re.compile(r"(?:^|(?<=\s))on(?=\s|$)", re.IGNORECASE)
_SLOT = re.compile(r"(?:(?:pcie|gen|pcie gen)\s*(\d)(?:\.0)?)?\s*(?:x\s*(\d{1,3}))?", re.IGNORECASE)
_SIZE = re.compile(r"(?<![\w.])\d+(?:\.\d+)?\s*(?:g|t|[kmgt]i?b)\b", re.IGNORECASE)
_MAKERS_UNIT = re.compile(r"(?<=[kmgt])b", re.IGNORECASE)

# (alignment in bytes, row padding in elements) of each back end's buffers. ROCm is ggml-cuda compiled for
# HIP; Metal: ggml-metal.cpp, get_alignment. Vulkan's is the driver's minStorageBufferOffsetAlignment
# (ggml_backend_vk_buffer_type_get_alignment), at most 64 on the cards of the catalog: 128 errs high.
_BUFFERS = {
    DeviceKind.CUDA: (nvml.ALIGNMENT_BYTES, nvml.ROW_PADDING),
    DeviceKind.ROCM: (nvml.ALIGNMENT_BYTES, nvml.ROW_PADDING),
    DeviceKind.METAL: (32, 0),
}
_OTHER_BUFFERS = (128, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class WhatIfRig:
    """Cards, the host if it is not this computer, the disk of either, and notes."""

    devices: tuple[Device, ...]
    host: Host | None
    disk_bytes_per_s: Fact | None
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Spec:
    text: str
    count: int
    card: catalog.Card | None
    memory_bytes: int | None
    bandwidth_bytes_per_s: float | None
    generation: int | None
    lanes: int | None

    @property
    def is_unified(self) -> bool:
        """Whether it is a computer whose graphics use its memory."""
        return self.card is not None and self.card.shares_host_memory


def parse_rigs(rigs: Sequence[str], words: HostWords = NO_WORDS) -> WhatIfRig:
    """The cards of all `rigs`, called GPU0, GPU1, ... in the order given, and their host.

    `words` describe the host; so may one of the rigs. Raises UnknownDevice, BadHost.
    """
    cards = []
    for rig in rigs:
        before, *on = (part.strip() for part in _ON.split(rig, maxsplit=1))
        cards += [before] if before or not on else []
        for after in on:
            if not after:
                raise BadHost(f'{rig[:_LONGEST_SPEC]!r} lacks a host after "on"; write it like {ON_EXAMPLE}')
            words += split_words(after)
    specs = [_read(text) for text in _specs(cards)]
    if sum(spec.count for spec in specs) > MAX_CARDS:
        n_cards = sum(spec.count for spec in specs)
        raise UnknownDevice(f"{n_cards} cards are more than a plan takes: at most {MAX_CARDS}.")
    host = _host(specs, words)
    generation = host.pcie_generation if host is not None else None
    devices = [device for spec in specs for device in _devices(spec, generation or _SLOT_GENERATION, host)]
    return WhatIfRig(
        devices=tuple(dataclasses.replace(device, id=f"GPU{i}") for i, device in enumerate(devices)),
        host=None if host is None else host.host,
        disk_bytes_per_s=None if words.disk is None else parse_disk(words.disk),
        notes=(*_card_notes(specs, host), *(() if host is None else host.notes)),
    )


def names_host(rig: str) -> bool:
    """Whether `rig` says what its host is: after "on", or as a computer whose graphics use its memory.

    Raises UnknownDevice.
    """
    before, *on = (part.strip() for part in _ON.split(rig, maxsplit=1))
    return bool(on) or any(_read(spec).is_unified for spec in _specs([before]))


def _host(specs: Sequence[_Spec], words: HostWords) -> WhatIfHost | None:
    """The host: as described, or the computer that a card of `specs` is a part of; None: neither."""
    computers = [spec for spec in specs if spec.is_unified]
    if sum(spec.count for spec in computers) > 1:
        names = " and ".join(dict.fromkeys(spec.text for spec in computers))
        raise BadHost(
            f"{names}: each is a computer of its own; plan for one, and give others as workers, with --rpc"
        )
    if not computers:
        return None if words.ram is None and words.cpu is None else parse_host(words)
    (spec,) = computers
    assert spec.card is not None
    if words.ram is not None and spec.memory_bytes is not None:
        raise BadHost(f"the memory of {spec.text} is given twice, also as {words.ram}; give it once")
    if words.ram is None:
        size = spec.memory_bytes or spec.card.memory_bytes
        if size is None:
            raise UnknownDevice(
                f"{spec.text!r}: this device uses the computer's memory, so say how much there is: "
                f"{spec.text} 64GB."
            )
        words = dataclasses.replace(words, ram=f"{round(size / MIB)}MiB")
    found = parse_host(words, spec.card.name)
    bandwidth = _bandwidth_of(spec, found.host)
    return dataclasses.replace(found, host=dataclasses.replace(found.host, bandwidth_bytes_per_s=bandwidth))


def _devices(spec: _Spec, generation: int, host: WhatIfHost | None) -> tuple[Device, ...]:
    """The cards of one spec, all called GPU0."""
    card = spec.card
    if spec.is_unified:
        assert host is not None
        return (_unified(spec, host.host),)
    memory_source, memory_bytes = Source.GIVEN, spec.memory_bytes
    if memory_bytes is None:
        assert card is not None
        assert card.memory_bytes is not None  # cards without shared memory have a size
        memory_source, memory_bytes = Source.CATALOG, card.memory_bytes
    device = Device(
        id="GPU0",
        name=_name(card, memory_bytes),
        kind=card.kind if card else DeviceKind.CUDA,
        total_bytes=memory_bytes,
        free_bytes=memory_bytes,
        memory_source=memory_source,
        bandwidth_bytes_per_s=_bandwidth_of(spec, None),
        compute_capability=card.compute_capability if card else None,
        what_if=True,
        link=_link(spec, generation),
    )
    return (_with_buffers(device),) * spec.count


def _unified(spec: _Spec, host: Host) -> Device:
    """Graphics that use the memory of `host`."""
    card = spec.card
    assert card is not None
    most = unified_memory.most_bytes(card.kind, host.total_bytes)
    return _with_buffers(
        Device(
            id="GPU0",
            name=card.name,
            kind=card.kind,
            total_bytes=most,
            free_bytes=min(most, host.available_bytes),
            memory_source=Source.CATALOG if host.total_bytes == card.memory_bytes else Source.GIVEN,
            bandwidth_bytes_per_s=host.bandwidth_bytes_per_s,
            compute_capability=card.compute_capability,
            what_if=True,
            shares_host_memory=True,
        )
    )


def _with_buffers(device: Device) -> Device:
    alignment_bytes, row_padding = _BUFFERS.get(device.kind, _OTHER_BUFFERS)
    return dataclasses.replace(device, alignment_bytes=alignment_bytes, row_padding=row_padding)


def _bandwidth_of(spec: _Spec, host: Host | None) -> Fact | None:
    """As given; of the catalog; of the host whose memory the card uses."""
    if spec.bandwidth_bytes_per_s is not None:
        return Fact(spec.bandwidth_bytes_per_s, Source.GIVEN)
    if host is not None and host.bandwidth_bytes_per_s is not None:
        return host.bandwidth_bytes_per_s
    if spec.card is not None and spec.card.bandwidth_bytes_per_s is not None:
        return Fact(spec.card.bandwidth_bytes_per_s, Source.CATALOG)
    return None


def _link(spec: _Spec, generation: int) -> Link | None:
    """The link of a card in its slot, or in one of `generation`; None if card and slot are unknown."""
    if spec.card is None:
        return pcie_link(spec.generation, spec.lanes)
    if spec.card.pcie_generation is None or spec.card.pcie_lanes is None:
        return None
    return pcie_link(
        min(spec.card.pcie_generation, spec.generation or generation),
        min(spec.card.pcie_lanes, spec.lanes or _SLOT_LANES),
    )


def _card_notes(specs: Sequence[_Spec], host: WhatIfHost | None) -> tuple[str, ...]:
    """The catalog's notes on cards, each once, and on limits of graphics."""
    cards = [spec.card for spec in specs if spec.card is not None]
    notes = [f"{card.label}: {card.note}" for card in cards if card.note and not card.shares_host_memory]
    for card in (card for card in cards if card.shares_host_memory):
        assert host is not None
        notes.append(nvml.shared_memory_note(card.name))
        limit = unified_memory.limit_note(card.name, card.kind, host.host.total_bytes)
        notes += [] if limit is None else [limit]
    return tuple(dict.fromkeys(notes))


def _specs(rigs: Sequence[str]) -> list[str]:
    """The specs that "+" joins. Raises UnknownDevice if one is empty."""
    specs = []
    for rig in rigs:
        parts = [part.strip() for part in _JOIN.split(rig)]
        if len(parts) > 1 and not all(parts):
            raise UnknownDevice(
                f'{rig[:_LONGEST_SPEC]!r} lacks a card next to a "+"; write it like {EXAMPLE}'
            )
        specs += parts
    return specs


def _name(card: catalog.Card | None, memory_bytes: int) -> str:
    """The label of the variant, or the card's name if no variant has this memory size."""
    if card is None:
        return f"{format_bytes(memory_bytes)} GPU"
    made = memory_bytes == card.memory_bytes or round(memory_bytes / GIB) == card.memory_gib
    return card.label if made else card.name


def _read(spec: str) -> _Spec:
    if len(spec) > _LONGEST_SPEC:
        raise UnknownDevice(
            f"a card's name of {len(spec)} characters is too long; write it like {catalog.FREE_FORM}."
        )
    body, *given = (part.strip() for part in spec.split("@"))
    count, body = _count(spec, body)
    memory_bytes, bandwidth, slot = None, None, None
    if _SIZE.fullmatch(body):
        memory_bytes = _size(spec, body)
    for part in given:
        if "/" in part and bandwidth is None:
            bandwidth = _bandwidth(spec, part)
        elif _SIZE.fullmatch(part) and memory_bytes is None:
            memory_bytes = _size(spec, part)
        elif (match := _SLOT.fullmatch(part)) is not None and part and slot is None:
            slot = match
        else:
            raise UnknownDevice(
                f"{spec!r}: {part!r} after @ is neither one memory size, one bandwidth nor one slot; "
                f"write it like {catalog.FREE_FORM} or RTX 3090@PCIe 4 x8."
            )
    card = None
    if not _SIZE.fullmatch(body):
        card, own_size = _named(spec, body, memory_bytes)
        memory_bytes = memory_bytes or own_size
    generation, lanes = (None, None) if slot is None else slot.groups()
    return _Spec(
        text=body,
        count=count,
        card=card,
        memory_bytes=memory_bytes,
        bandwidth_bytes_per_s=bandwidth,
        generation=_slot_number(spec, generation, 6),
        lanes=_slot_number(spec, lanes, 16),
    )


def _slot_number(spec: str, digits: str | None, most: int) -> int | None:
    if digits is None:
        return None
    if not 0 < int(digits) <= most:
        raise UnknownDevice(f"{spec!r}: a slot is of PCIe 1 to 6 and has 1 to 16 lanes; write @PCIe 4 x8.")
    return int(digits)


def _named(spec: str, name: str, memory_bytes: int | None) -> tuple[catalog.Card, int | None]:
    """The card called `name`; also the memory size in the name if the catalog has no such variant."""
    try:
        return catalog.find(name, memory_bytes), None
    except UnknownDevice:
        sizes = _SIZE.findall(name)
        rest = _SIZE.sub(" ", name).strip()
        if len(sizes) != 1 or memory_bytes is not None or not any(map(str.isalnum, rest)):
            raise
    own_size = _size(spec, sizes[0])
    return catalog.find(rest, own_size), own_size


def _count(spec: str, body: str) -> tuple[int, str]:
    match = _COUNT.fullmatch(body)
    if match is None:
        return 1, body
    digits = match[1].lstrip("0")
    if not digits or len(digits) > 4 or int(digits) > MAX_CARDS:
        raise UnknownDevice(f"{spec!r}: a count of cards is from 1 to {MAX_CARDS}.")
    return int(digits), match[2]


def _size(spec: str, text: str) -> int:
    try:
        size = parse_bytes(_MAKERS_UNIT.sub("ib", text))
    except (ValueError, OverflowError):
        size = 0
    if not 0 < size <= _LARGEST_BYTES:
        raise UnknownDevice(f"{spec!r}: {text} is not a size a card can have; write it like 24GB.")
    return size


def _bandwidth(spec: str, text: str) -> float:
    try:
        bandwidth = parse_bytes_per_s(text)
    except (ValueError, OverflowError):
        bandwidth = 0.0
    if bandwidth <= 0:
        raise UnknownDevice(f"{spec!r}: {text} is not a bandwidth; write it like 1008GB/s.")
    return bandwidth
