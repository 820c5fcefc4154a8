"""Weights on another device than their layer: llama.cpp's `tensor_buft_overrides`."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vram_llm.model.tensors import PART_PATTERNS, LayerPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Puts the tensors whose names `pattern` matches on `device`.

    Of several overrides, the first that matches a tensor decides (std::regex_search in create_tensor of
    src/llama-model-loader.cpp). KV cache and states stay with the layer's device.
    """

    pattern: str  # an ECMAScript regular expression that Python's `re` reads alike
    device: str  # a device id, or "host"
    part: LayerPart | None = None  # the weights that `pattern` matches; None: the user wrote the pattern
    layers: tuple[int, ...] = ()  # of these weights, ascending; empty in a wish: all layers

    @classmethod
    def of(cls, part: LayerPart, layers: Iterable[int], device: str) -> "Override":
        """The override that puts `part` of these layers on `device`."""
        ordered = tuple(sorted(layers))
        return cls(pattern=pattern_of(part, ordered), device=device, part=part, layers=ordered)

    @classmethod
    def of_all(cls, part: LayerPart, device: str) -> "Override":
        """The override that puts `part` of every layer on `device`, whatever layers the model has."""
        return cls(pattern=rf"^blk\.\d+\.{PART_PATTERNS[part]}", device=device, part=part)


def overrides_of(
    parts: Mapping[tuple[LayerPart, str], Collection[int]], places: Sequence[str]
) -> tuple[Override, ...]:
    """The overrides that put parts of layers on devices or on the host, always in the same order.

    `parts` has the layers by part and place. The order is that of parts, then of `places`.
    """
    keys = [(part, place) for part in LayerPart for place in places if parts.get((part, place))]
    return tuple(Override.of(part, parts[part, place], place) for part, place in keys)


def pattern_of(part: LayerPart, layers: Sequence[int]) -> str:
    """A regular expression that matches the names of `part` in these layers, and nothing else."""
    return rf"^blk\.(?:{'|'.join(map(str, layers))})\.{PART_PATTERNS[part]}"


def overriding_device(overrides: Sequence[Override], name: str) -> str | None:
    """The device to which the overrides move the tensor called `name`; None: none matches."""
    return overriding_devices(overrides)(name)


def overriding_devices(overrides: Sequence[Override]) -> Callable[[str], str | None]:
    """`overriding_device` for many names."""
    searches = [(_compiled(override.pattern).search, override.device) for override in overrides]

    def device_of(name: str) -> str | None:
        for search, device in searches:
            if search(name):
                return device
        return None

    return device_of


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
