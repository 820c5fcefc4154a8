"""LoRA adapters of a model: which of them compute a request, at which scales."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

Adapters = tuple[tuple[int, float], ...]
"""Numbers of the plan's LoRA adapters with their scales, ascending; those of scale 0 are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterInfo:
    """Facts about a LoRA adapter: its file, its planned scale, and two texts that its file may have."""

    path: str
    scale: float = 1.0
    task_name: str = ""
    prompt_prefix: str = ""


def scaled(scales: Iterable[float]) -> Adapters:
    """The adapters with these scales, one for each adapter."""
    return tuple((number, scale) for number, scale in enumerate(scales) if scale)


@lru_cache
def key_of(adapters: Adapters) -> int:
    """A number of 128 bits that stands for adapters and their scales."""
    return int.from_bytes(blake2b(repr(adapters).encode(), digest_size=16).digest())
