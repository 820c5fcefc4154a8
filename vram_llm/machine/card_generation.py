"""The generation of a card's chip: cards of one generation run llama.cpp's kernels alike."""

import re
from enum import StrEnum
from functools import lru_cache

from vram_llm.machine.types import Device, DeviceKind


class ChipGeneration(StrEnum):
    """A family of chips. NVIDIA's are known by compute capability, the others by the card's name."""

    PASCAL = "Pascal"
    PASCAL_HBM = "Pascal with HBM"
    VOLTA = "Volta"
    TURING = "Turing"
    AMPERE_HBM = "Ampere with HBM"
    AMPERE = "Ampere"
    ADA = "Ada"
    HOPPER = "Hopper"
    BLACKWELL_HBM = "Blackwell with HBM"
    BLACKWELL = "Blackwell"
    GB10 = "GB10"  # and Thor: Blackwell with the computer's memory
    VEGA = "Vega"
    CDNA = "CDNA"
    CDNA3 = "CDNA 3"
    RDNA2 = "RDNA 2"
    RDNA3 = "RDNA 3"
    RDNA3_5 = "RDNA 3.5"
    RDNA4 = "RDNA 4"
    ARC = "Arc"
    APPLE = "Apple"
    APPLE_ULTRA = "Apple Ultra"  # two chips, each with half of the memory


_BY_CAPABILITY = {
    "6.0": ChipGeneration.PASCAL_HBM,
    "6": ChipGeneration.PASCAL,
    "7.0": ChipGeneration.VOLTA,
    "7": ChipGeneration.TURING,
    "8.0": ChipGeneration.AMPERE_HBM,
    "8.9": ChipGeneration.ADA,
    "8": ChipGeneration.AMPERE,
    "9": ChipGeneration.HOPPER,
    "10": ChipGeneration.BLACKWELL_HBM,
    "11": ChipGeneration.GB10,
    "12.1": ChipGeneration.GB10,
    "12": ChipGeneration.BLACKWELL,
}
_BY_NAME = (  # the first match counts
    (r"\bm\d+ ultra\b", ChipGeneration.APPLE_ULTRA),
    (r"\bapple\b", ChipGeneration.APPLE),
    (r"\b(?:mi3\d\d\w?|gfx94\w+|gfx950)\b", ChipGeneration.CDNA3),
    (r"\b(?:mi[12]\d\d\w?|gfx908|gfx90a)\b", ChipGeneration.CDNA),
    (r"\b(?:mi50|mi60|radeon vii|vega(?: ?\d+)?|gfx90[0-9])\b", ChipGeneration.VEGA),
    (r"\b(?:rx ?90\d\d|r9700|gfx12\d\d)\b", ChipGeneration.RDNA4),
    (r"\b(?:80[0-9]{2}s|8[4-9]0m|gfx115\d)\b", ChipGeneration.RDNA3_5),
    (r"\b(?:rx ?7\d{3}|w7\d{3}|7[4-9]0m|gfx11\d\d)\b", ChipGeneration.RDNA3),
    (r"\b(?:rx ?6\d{3}|w6\d{3}|v620|6[4-9]0m|gfx103\d)\b", ChipGeneration.RDNA2),
    (r"\b(?:arc|b[56]0)\b", ChipGeneration.ARC),
)


def generation_of(device: Device) -> ChipGeneration | None:
    """The generation of a device's chip; None if it is unknown, as an RPC worker's is."""
    if device.kind is DeviceKind.RPC:
        return None
    if device.kind is DeviceKind.CUDA or device.compute_capability is not None:
        capability = device.compute_capability or ""
        return _BY_CAPABILITY.get(capability) or _BY_CAPABILITY.get(capability.partition(".")[0])
    return _by_name(device.name.lower()) or (
        ChipGeneration.APPLE if device.kind is DeviceKind.METAL else None
    )


@lru_cache(maxsize=256)
def _by_name(name: str) -> ChipGeneration | None:
    return next((generation for pattern, generation in _BY_NAME if re.search(pattern, name)), None)
