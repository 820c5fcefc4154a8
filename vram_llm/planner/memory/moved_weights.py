"""Bytes that overrides move from the devices of layers to other devices."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import Tensor, layer_of
from vram_llm.planner.overrides import overriding_device
from vram_llm.planner.types import HOST, Placement

MATRICES = frozenset(
    f"ffn_{name}{suffix}" for name in ("up", "gate", "gate_up", "down") for suffix in ("", "_exps", "_shexp")
)
"""Tensors of feed-forward networks, routed experts and shared experts, by their names in a layer."""


@dataclass(frozen=True, slots=True)
class MovedWeights:
    """Tensors that are on another device than llama.cpp's layer split puts them on.

    `layers` has the added tensors of layers, by device and layer.
    """

    taken: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # by device that loses
    added: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # by device that gets
    layers: dict[str, dict[int, tuple[Tensor, ...]]] = field(default_factory=lambda: defaultdict(dict))

    def bytes_on(self, device_id: str, n_bytes: Callable[[list[Tensor]], int]) -> int:
        """Bytes that a device has more than without overrides; `n_bytes` gives the bytes of tensors there."""
        return n_bytes(self.added.get(device_id, [])) - n_bytes(self.taken.get(device_id, []))

    def matrices_elsewhere(self, own: range) -> dict[int, frozenset[str]]:
        """The feed-forward matrices and experts that layers `own` of a device have elsewhere.

        Names in a layer, by layer.
        """
        found: dict[int, frozenset[str]] = {}
        for layers in self.layers.values():
            for layer in layers.keys() & own:
                names = frozenset(map(_matrix, layers[layer])) & MATRICES
                found[layer] = found.get(layer, frozenset()) | names
        return found

    def has_visits(self, device_id: str, own: range) -> bool:
        """Whether a device with layers `own` computes with weights of other layers, or others with its own.

        The host that computes with feed-forward matrices and experts is not counted.
        """
        if device_id in self.added:
            return True
        elsewhere = ((place, layer) for place, layers in self.layers.items() for layer in layers)
        return any(
            place != HOST or not MATRICES.issuperset(map(_matrix, self.layers[place][layer]))
            for place, layer in elsewhere
            if layer in own
        )


@dataclass(frozen=True, slots=True)
class MovedPart:
    """Tensors of one layer on another device than the layer."""

    layer: int
    home: str  # the layer's device
    device: str
    tensors: tuple[Tensor, ...]


def moved_weights(profile: ModelProfile, placement: Placement) -> MovedWeights:
    """The tensors that a placement's overrides move, by device."""
    moved = MovedWeights()
    for part in moved_by_layer(profile, placement):
        moved.taken[part.home] += part.tensors
        moved.added[part.device] += part.tensors
        moved.layers[part.device][part.layer] = part.tensors
    outside = ((profile.input_tensors, HOST), (profile.output_tensors, placement.output_device))
    for tensors, home in outside if placement.overrides else ():
        for tensor in tensors:
            device = overriding_device(placement.overrides, tensor.name)
            if device is not None and device != home:
                moved.taken[home].append(tensor)
                moved.added[device].append(tensor)
    return moved


def moved_by_layer(profile: ModelProfile, placement: Placement) -> Iterator[MovedPart]:
    """The tensors that a placement's overrides move, for each layer and device."""
    if not placement.overrides:
        return
    for layer, home in zip(profile.layers, placement.layer_devices(), strict=True):
        elsewhere = defaultdict(list)
        for tensor in () if layer.is_draft else layer.tensors:
            device = overriding_device(placement.overrides, tensor.name)
            if device is not None and device != home:
                elsewhere[device].append(tensor)
        for device, tensors in elsewhere.items():
            yield MovedPart(layer.index, home, device, tuple(tensors))


def _matrix(tensor: Tensor) -> str:
    """The name of a layer's tensor without the layer's number, and without ".weight" or ".bias"."""
    place = layer_of(tensor.name)
    return "" if place is None else place[1].partition(".")[0]
