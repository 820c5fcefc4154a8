"""Tensors that overrides move from the devices of their layers to other devices."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import Tensor, layer_of
from vram_llm.planner.overrides import overriding_devices
from vram_llm.planner.types import HOST, Placement

MATRICES = frozenset(
    f"ffn_{name}{suffix}" for name in ("up", "gate", "gate_up", "down") for suffix in ("", "_exps", "_shexp")
)
"""Tensors of feed-forward networks, routed experts and shared experts, by their names in a layer."""


@dataclass(frozen=True, slots=True)
class MovedWeights:
    """Tensors that are on another device than with llama.cpp's layer split alone."""

    removed: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # by old device
    added: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # by new device
    layers: dict[str, dict[int, tuple[Tensor, ...]]] = field(
        default_factory=lambda: defaultdict(dict)
    )  # added tensors of layers, by new device and layer

    def bytes_on(self, device_id: str, n_bytes: Callable[[list[Tensor]], int]) -> int:
        """Bytes that overrides add to a device; `n_bytes` gives the bytes of tensors on that device."""
        return n_bytes(self.added.get(device_id, [])) - n_bytes(self.removed.get(device_id, []))

    def moved_matrices(self, own: range) -> dict[int, frozenset[str]]:
        """The feed-forward matrices and experts of layers `own` that are moved: their names, by layer."""
        by_layer: dict[int, frozenset[str]] = {}
        for layers in self.layers.values():
            for layer in layers.keys() & own:
                names = frozenset(map(_name_in_layer, layers[layer])) & MATRICES
                by_layer[layer] = by_layer.get(layer, frozenset()) | names
        return by_layer

    def has_round_trips(self, device_id: str, own: range) -> bool:
        """Whether activations go from a device with layers `own` to another device and back.

        It has weights of other layers, or others have weights of its layers. Feed-forward matrices and
        experts on the host do not count.
        """
        if device_id in self.added:
            return True
        moved = ((place, layer) for place, layers in self.layers.items() for layer in layers)
        return any(
            place != HOST or not MATRICES.issuperset(map(_name_in_layer, self.layers[place][layer]))
            for place, layer in moved
            if layer in own
        )


@dataclass(frozen=True, slots=True)
class MovedPart:
    """Tensors of one layer on another device than the layer."""

    layer: int
    home: str  # the layer's device, or "host"
    device: str  # the tensors' device, or "host"
    tensors: tuple[Tensor, ...]


def moved_weights(profile: ModelProfile, placement: Placement) -> MovedWeights:
    """The tensors that a placement's overrides move, by device."""
    moved = MovedWeights()
    for part in moved_by_layer(profile, placement):
        moved.removed[part.home] += part.tensors
        moved.added[part.device] += part.tensors
        moved.layers[part.device][part.layer] = part.tensors
    outside = ((profile.input_tensors, HOST), (profile.output_tensors, placement.output_device))
    device_of = overriding_devices(placement.overrides)
    for tensors, home in outside if placement.overrides else ():
        for tensor in tensors:
            device = device_of(tensor.name)
            if device is not None and device != home:
                moved.removed[home].append(tensor)
                moved.added[device].append(tensor)
    return moved


def moved_by_layer(profile: ModelProfile, placement: Placement) -> Iterator[MovedPart]:
    """The tensors that a placement's overrides move, for each layer and new device."""
    if not placement.overrides:
        return
    device_of = overriding_devices(placement.overrides)
    for layer, home in zip(profile.layers, placement.layer_devices(), strict=True):
        by_device = defaultdict(list)
        for tensor in () if layer.is_draft else layer.tensors:
            device = device_of(tensor.name)
            if device is not None and device != home:
                by_device[device].append(tensor)
        for device, tensors in by_device.items():
            yield MovedPart(layer.index, home, device, tuple(tensors))


def _name_in_layer(tensor: Tensor) -> str:
    """The name of a layer's tensor without layer number, ".weight" and ".bias"; "" for other tensors."""
    layer_and_name = layer_of(tensor.name)
    return "" if layer_and_name is None else layer_and_name[1].partition(".")[0]
