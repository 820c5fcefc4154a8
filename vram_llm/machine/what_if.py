"""Cards that are planned for but not there, as a person writes them.

spec = [COUNT "x"] (NAME | SIZE) ["@" SIZE] ["@" BANDWIDTH]

"RTX 4080 Laptop"     a card of the catalog
"2x RTX 3090 Ti"      two of them
"RTX 3080@12GiB"      a card with another memory size, of the nearest make the catalog has
"24GiB"               any CUDA card of that size, its bandwidth unknown
"2x24GiB@1008GB/s"    two of them, with a bandwidth
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
_LONGEST_SPEC = 200
_LARGEST_BYTES = 4096 * GIB
# "7900xt" and "7900xtx" are cards, not 7900 of something.
_COUNT = re.compile(r"(\d+)\s*(?:x(?!tx?\b)|×|\*)\s*(\S.*)", re.IGNORECASE)
# "4080m" is a card and "4080" is one: a size has a unit, and mebibytes are written out.
_SIZE = re.compile(r"\d+(?:\.\d+)?\s*(?:g|t|[kmgt]i?b)", re.IGNORECASE)

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


def parse_gpus(specs: Sequence[str]) -> tuple[Device, ...]:
    """The cards of all `specs`, called GPU0, GPU1, ... in the order given. Raises UnknownDevice."""
    devices = [device for spec in specs for device in parse_gpu(spec)]
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
            f"{spec!r}: this device shares the host's memory, so say how much it may use: {spec}@64GiB."
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
            name=card.label if card else f"{format_bytes(memory_bytes)} GPU",
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


def notes(specs: Sequence[str]) -> tuple[str, ...]:
    """What the catalog has to say about the cards of `specs`, each sentence once."""
    cards = [read.card for read in map(_read, specs) if read.card is not None]
    return tuple(dict.fromkeys(f"{card.label}: {card.note}" for card in cards if card.note))


def _read(spec: str) -> _Spec:
    if len(spec) > _LONGEST_SPEC:
        raise UnknownDevice(
            f"a --gpu of {len(spec)} characters is no card; write it like {catalog.FREE_FORM}."
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
    card = None if _SIZE.fullmatch(body) else catalog.find(body, memory_bytes)
    return _Spec(count, card, memory_bytes, bandwidth)


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
        size = parse_bytes(text)
    except (ValueError, OverflowError):
        size = 0
    if not 0 < size <= _LARGEST_BYTES:
        raise UnknownDevice(f"{spec!r}: {text} is not a size a card can have; write it like 24GiB.")
    return size


def _bandwidth(spec: str, text: str) -> float:
    try:
        bandwidth = parse_bytes_per_s(text)
    except (ValueError, OverflowError):
        bandwidth = 0.0
    if bandwidth <= 0:
        raise UnknownDevice(f"{spec!r}: {text} is not a bandwidth; write it like 1008GB/s.")
    return bandwidth
