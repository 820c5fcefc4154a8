"""Parse descriptions of what-if cards: cards to plan for that are not in the machine.

rig  = spec {"+" spec}
spec = [COUNT "x"] (NAME [SIZE] | SIZE) ["@" SIZE] ["@" BANDWIDTH]

"RTX 4080 Laptop"              a card of the catalog
"RTX 4090 + 2x RTX 3060 12GB"  three of them
"2080 Ti 22GB"                 a card with another memory size; the catalog's nearest variant
"24GB"                         a CUDA card of that size with unknown bandwidth
"2x24GB@1008GB/s"              two such cards with a bandwidth

GB is GiB here, as card makers write it: a "24GB" card has 24 GiB. Bandwidths are decimal.
"""

import dataclasses
import re
from collections.abc import Sequence

from vram_llm.errors import UnknownDevice
from vram_llm.machine import catalog, nvml
from vram_llm.machine.datasheet_speed import pcie_link
from vram_llm.machine.types import Device, DeviceKind, Fact, Source
from vram_llm.units import GIB, format_bytes, parse_bytes, parse_bytes_per_s

MAX_CARDS = 64
EXAMPLE = '"RTX 4090 + 2x RTX 3060"'
_LONGEST_SPEC = 200
_LARGEST_BYTES = 4096 * GIB
_JOIN = re.compile(r"(?<!max)\+", re.IGNORECASE)  # "Ryzen AI Max+ 395" is one name
# "7900xt" and "7900xtx" are cards, not 7900 of something.
_COUNT = re.compile(r"(\d+)\s*(?:x(?!tx?\b)|×|\*)\s*(\S.*)", re.IGNORECASE)
# "4080m" is a card and "4080" is one: a size has a unit, and mebibytes are written in full.
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
class _Spec:
    count: int
    card: catalog.Card | None
    memory_bytes: int | None
    bandwidth_bytes_per_s: float | None


def parse_gpus(rigs: Sequence[str]) -> tuple[Device, ...]:
    """The cards of all `rigs`, called GPU0, GPU1, ... in the order given. Raises UnknownDevice."""
    devices = [device for spec in _specs(rigs) for device in parse_gpu(spec)]
    if len(devices) > MAX_CARDS:
        raise UnknownDevice(f"{len(devices)} cards are more than a plan takes: at most {MAX_CARDS}.")
    return tuple(dataclasses.replace(device, id=f"GPU{i}") for i, device in enumerate(devices))


def parse_gpu(spec: str) -> tuple[Device, ...]:
    """The cards of one spec, called GPU0, GPU1, ... Raises UnknownDevice with a sentence that says why."""
    read = _read(spec)
    card, memory_source, bandwidth = read.card, Source.GIVEN, None
    if read.memory_bytes is not None:
        memory_bytes = read.memory_bytes
    elif card is not None and card.memory_bytes is not None:
        memory_bytes, memory_source = card.memory_bytes, Source.CATALOG
    else:
        raise UnknownDevice(
            f"{spec!r}: this device shares the host's memory, so say how much it may use: {spec}@64GB."
        )
    if read.bandwidth_bytes_per_s is not None:
        bandwidth = Fact(read.bandwidth_bytes_per_s, Source.GIVEN)
    elif card is not None and card.bandwidth_bytes_per_s is not None:
        bandwidth = Fact(card.bandwidth_bytes_per_s, Source.CATALOG)
    kind = card.kind if card else DeviceKind.CUDA
    alignment_bytes, row_padding = _BUFFERS.get(kind, _OTHER_BUFFERS)
    return tuple(
        Device(
            id=f"GPU{i}",
            name=_name(card, memory_bytes),
            kind=kind,
            total_bytes=memory_bytes,
            free_bytes=memory_bytes,
            memory_source=memory_source,
            bandwidth_bytes_per_s=bandwidth,
            alignment_bytes=alignment_bytes,
            row_padding=row_padding,
            compute_capability=card.compute_capability if card else None,
            what_if=True,
            link=pcie_link(card.pcie_generation, card.pcie_lanes) if card else None,
        )
        for i in range(read.count)
    )


def notes(rigs: Sequence[str]) -> tuple[str, ...]:
    """The catalog's notes on the cards of `rigs`, each once."""
    cards = [read.card for read in map(_read, _specs(rigs)) if read.card is not None]
    return tuple(dict.fromkeys(f"{card.label}: {card.note}" for card in cards if card.note))


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
    memory_bytes, bandwidth = None, None
    if _SIZE.fullmatch(body):
        memory_bytes = _size(spec, body)
    for part in given:
        if "/" in part and bandwidth is None:
            bandwidth = _bandwidth(spec, part)
        elif _SIZE.fullmatch(part) and memory_bytes is None:
            memory_bytes = _size(spec, part)
        else:
            raise UnknownDevice(
                f"{spec!r}: {part!r} after @ is neither one memory size nor one bandwidth; "
                f"write it like {catalog.FREE_FORM}."
            )
    card = None
    if not _SIZE.fullmatch(body):
        card, own_size = _named(spec, body, memory_bytes)
        memory_bytes = memory_bytes or own_size
    return _Spec(count, card, memory_bytes, bandwidth)


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
