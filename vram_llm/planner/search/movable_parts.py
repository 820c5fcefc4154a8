"""Parts of layers that may be on another device than their layer, or on the host: their bytes and seconds.

Of a layer with routed experts, these may move; of a layer with a dense feed-forward network, its matrices, or
ffn_down alone. If the user dictates overrides, nothing else moves, and their weights count where they are.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart, Tensor
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.overrides import Override, overriding_device
from vram_llm.planner.speed import Costs, Predictor, output_tensors
from vram_llm.planner.types import HOST

_EXPERTS = (LayerPart.EXPERTS, LayerPart.EXPERTS_UP, LayerPart.EXPERTS_DOWN)
_DENSE = (LayerPart.FFN, LayerPart.FFN_DOWN)


class Part(NamedTuple):
    """Weights of a layer that move together."""

    part: LayerPart
    tensors: tuple[Tensor, ...]


class Move(NamedTuple):
    """A part of a layer on another device than the layer."""

    layer: int
    choice: int  # index among the layer's `choices`
    place: str  # a device id, or "host"


class MovableParts:
    """The parts of a model's layers that may move, and the bytes and seconds of each place."""

    def __init__(
        self,
        profile: ModelProfile,
        meter: AnalyticMeter,
        predictor: Predictor,
        overrides: Sequence[Override] | None = None,
        host_price_s: float = 0.0,
    ) -> None:
        """`host_price_s` is added to the seconds of a step for every byte of weights on the host."""
        self._profile, self._meter, self._predictor = profile, meter, predictor
        self._rows, self._price_s = predictor.objective_streams, host_price_s
        self.places = (*meter.devices, HOST)
        self.choices = tuple(_choices(layer) if overrides is None else () for layer in profile.layers)
        self._dictated = [_dictated(layer, overrides or ()) for layer in profile.layers]
        self._round_trips = {
            (home, place): predictor.round_trip_s(home, place, self._rows)
            for home in self.places
            for place in self.places
        }
        self._bytes = {
            place: [[meter.bytes_of(place, part.tensors) for part in parts] for parts in self.choices]
            for place in self.places
        }
        self._reads = {
            place: [
                [self._read_s(place, layer, part.tensors) for part in parts]
                for layer, parts in zip(profile.layers, self.choices, strict=True)
            ]
            for place in self.places
        }

    def kind(self, layer: int) -> tuple[tuple[int, float], ...]:
        """Equal for layers whose parts are alike."""
        return tuple(
            (self._bytes[HOST][layer][n], self._reads[HOST][layer][n])
            for n in range(len(self.choices[layer]))
        )

    def bytes_on(self, place: str, move: Move) -> int:
        """Bytes of a move's part on a device or on the host."""
        return self._bytes[place][move.layer][move.choice]

    def seconds(self, home: str, move: Move) -> float:
        """Seconds that a step takes more with a move than with the part of the layer on `home`."""
        layer, choice, place = move
        reads = self._reads[place][layer][choice] - self._reads[home][layer][choice]
        return reads + self._round_trips[home, place]

    def costs(self, home: str) -> Costs:
        """Seconds of runs of items on a device or on the host, with the user's overrides."""
        plain = self._predictor.decode_costs(home, self._rows)
        more = [0.0]
        for layer, moved in zip(self._profile.layers, self._dictated, strict=True):
            more.append(self._price_s * layer.bytes if home == HOST else 0.0)
            for place, tensors in moved.items():
                if place != home:
                    reads = self._read_s(place, layer, tensors) - self._read_s(home, layer, tensors)
                    more[-1] += reads + self._round_trips[home, place]
        output = sum(tensor.n_bytes for tensor in output_tensors(self._profile))
        more.append(self._price_s * output if home == HOST else 0.0)
        return Costs(plain.fixed, [a + b for a, b in zip(plain.sums, accumulate(more), strict=True)])

    def dictated_bytes(self, device_id: str) -> int:
        """Bytes of the weights that the user's overrides put on a device."""
        return sum(self._meter.bytes_of(device_id, moved.get(device_id, ())) for moved in self._dictated)

    def dictated_sums(self, device_id: str) -> list[int]:
        """sums[i]: bytes that the user's overrides decide about in all layers before i, if they were here."""
        n_bytes = (
            sum(self._meter.bytes_of(device_id, tensors) for tensors in moved.values())
            for moved in self._dictated
        )
        return [0, *accumulate(n_bytes)]

    def _read_s(self, place: str, layer: Layer, tensors: Sequence[Tensor]) -> float:
        price_s = self._price_s * self._meter.bytes_of(HOST, tensors) if place == HOST else 0.0
        return self._predictor.read_s(place, layer, tensors, self._rows) + price_s


def _choices(layer: Layer) -> tuple[Part, ...]:
    if layer.is_draft:
        return ()
    experts = layer.tensors_of(LayerPart.EXPERTS)
    parts = _EXPERTS if experts else _DENSE
    named = (Part(part, layer.tensors_of(part)) for part in parts)
    return tuple(part for part in named if part.tensors)


def _dictated(layer: Layer, overrides: Sequence[Override]) -> dict[str, list[Tensor]]:
    """The tensors of a layer that overrides match, by the place where they put them."""
    moved: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in () if layer.is_draft or not overrides else layer.tensors:
        place = overriding_device(overrides, tensor.name)
        if place is not None:
            moved[place].append(tensor)
    return moved
