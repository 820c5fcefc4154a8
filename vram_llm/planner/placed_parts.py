"""The devices of the parts of layers that a placement's overrides move, counted in layers."""

from collections.abc import Sequence
from dataclasses import dataclass

from vram_llm.model.tensors import LayerPart
from vram_llm.planner.override_text import layer_ranges
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, Placement, PlannedModel

EXPERTS, FFN, OTHER = "experts", "ffn", "moved"
"""Kinds of parts: routed experts, dense feed-forward weights, tensors that a user's pattern matches."""
_IN_WORDS = {EXPERTS: "the experts", FFN: "the feed-forward weights", OTHER: "some weights"}
_SOME_OF = f"{_IN_WORDS[OTHER]} of "
_PARTS = {
    LayerPart.EXPERTS: "the experts",
    LayerPart.EXPERTS_UP: "up and gate of the experts",
    LayerPart.EXPERTS_DOWN: "down of the experts",
    LayerPart.FFN: "the feed-forward weights",
    LayerPart.FFN_DOWN: "the down projections",
}
_WHOLE = {LayerPart.EXPERTS, LayerPart.FFN}
_HALVES = {LayerPart.EXPERTS_UP, LayerPart.EXPERTS_DOWN}


@dataclass(frozen=True, slots=True)
class LayerPartsOnHost:
    """Layers on devices that have one kind of part on the host."""

    kind: str  # EXPERTS, FFN or OTHER
    n_layers: int
    is_whole: bool  # whether the host has all tensors of the part


@dataclass(frozen=True, slots=True)
class LayersOnHost:
    """The layers of a model with weights on the host: whole layers, and layers with parts there."""

    n_layers: int  # whole layers
    parts: tuple[LayerPartsOnHost, ...] = ()  # of layers that are on devices

    @property
    def n_with_weights(self) -> int:
        """The number of layers with weights on the host."""
        return self.n_layers + sum(part.n_layers for part in self.parts)

    def phrases(self, n_all: int | None = None) -> list[str]:
        """ "3 of 36 layers", "the experts of 19 more"; without `n_all` "3 layers" in place of the first."""
        counted = [("", self.n_layers)] if self.n_layers else []
        kind = ""
        for part in self.parts:
            some = "" if part.is_whole or part.kind == OTHER else "part of "
            what = some if part.kind == kind else f"{some}{_IN_WORDS[part.kind]} of "
            counted.append((what, part.n_layers))
            kind = part.kind
        total = "" if n_all is None else f" of {n_all}"
        more = [f"{what}{count}" + ("" if what == _SOME_OF else " more") for what, count in counted[1:]]
        first = [f"{what}{count}{total} {_layers(n_all or count)}" for what, count in counted[:1]]
        return first + more

    def __str__(self) -> str:
        """ "3 layers and the experts of 19 more"; "" for nothing."""
        return listed(self.phrases())


def listed(phrases: Sequence[str]) -> str:
    """ "one, two and three"."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)


def _layers(count: int) -> str:
    return "layer" if count == 1 else "layers"


def on_host(placement: Placement) -> LayersOnHost:
    """The layers with weights on the host in a placement."""
    parts = []
    for kind in _moved_kinds(placement):
        layers = {layer for each in _of_kind(kind, placement) for layer in each.layers}
        homes = placement.layer_devices()
        places = [_places(kind, layer, placement) for layer in layers if homes[layer] != HOST]
        for is_whole in (True, False):
            n_layers = sum(where.get(HOST) is is_whole for where in places)
            parts += [LayerPartsOnHost(kind, n_layers, is_whole)] if n_layers else []
    return LayersOnHost(placement.cpu_layers, tuple(parts))


def in_words(override: Override) -> str:
    """ "the experts of layers 0-21", "tensors like attn_q"."""
    layers = f"layer{'s' if len(override.layers) > 1 else ''} {layer_ranges(override.layers)}"
    if override.part is None:
        return f"tensors like {override.pattern}"
    return f"{_PARTS[override.part]} of {layers}"


@dataclass(frozen=True, slots=True)
class PlacedPart:
    """The layers with one kind of part on a device."""

    whole: tuple[int, ...]  # with all tensors of the part
    some: tuple[int, ...]  # with some tensors of the part


def placed_parts(model: PlannedModel, placement: Placement) -> dict[str, dict[str, PlacedPart]]:
    """The layers of each kind of part that overrides move, by kind and by device or "host".

    OTHER has only the layers with moved tensors.
    """
    found: dict[str, dict[str, PlacedPart]] = {}
    for kind in _moved_kinds(placement):
        moved = {layer for each in _of_kind(kind, placement) for layer in each.layers}
        having = {EXPERTS: model.expert_layers, FFN: model.ffn_layers}.get(kind, ())
        places = {layer: _places(kind, layer, placement) for layer in sorted(moved | set(having))}
        found[kind] = {
            device: PlacedPart(
                *(
                    tuple(layer for layer, where in places.items() if where.get(device) is is_whole)
                    for is_whole in (True, False)
                )
            )
            for device in dict.fromkeys(device for where in places.values() for device in where)
        }
    return found


def _moved_kinds(placement: Placement) -> list[str]:
    kinds = {kind_of(override) for override in placement.overrides}
    return [kind for kind in _IN_WORDS if kind in kinds]


def kind_of(override: Override) -> str:
    """The kind of part that an override moves."""
    if override.part is None:
        return OTHER
    return EXPERTS if override.part.startswith(EXPERTS) else FFN


def _of_kind(kind: str, placement: Placement) -> list[Override]:
    return [override for override in placement.overrides if kind_of(override) == kind]


def _places(kind: str, layer: int, placement: Placement) -> dict[str, bool]:
    """The devices that have a layer's parts of one kind, and whether each has all of them."""
    home = placement.layer_devices()[layer]
    here = [override for override in _of_kind(kind, placement) if layer in override.layers]
    parts = {override.part for override in here}
    devices = {override.device for override in here}
    if kind != OTHER and not (parts & _WHOLE or parts >= _HALVES):
        devices.add(home)
    return dict.fromkeys(devices, kind != OTHER and len(devices) == 1)
