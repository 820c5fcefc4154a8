"""The parts of layers that may move to another device or to the host, with their bytes and seconds.

These are the routed experts of a layer, or the matrices of its dense feed-forward network, or ffn_down alone.
If the user gives overrides, no other parts move, and the bytes of overridden weights count on their devices.
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
from vram_llm.planner.run_costs import RunCosts
from vram_llm.planner.speed import Predictor, output_tensors
from vram_llm.planner.types import HOST

_EXPERTS = (LayerPart.EXPERTS, LayerPart.EXPERTS_UP, LayerPart.EXPERTS_DOWN)
_DENSE = (LayerPart.FFN, LayerPart.FFN_DOWN)


class MovablePart(NamedTuple):
    """Weights of a layer that move together."""

    part: LayerPart
    tensors: tuple[Tensor, ...]


class Move(NamedTuple):
    """The move of a part of a layer to another device or to the host."""

    layer: int
    choice: int  # index of the part among the layer's `choices`
    place: str  # a device id, or "host"


class MovableParts:
    """The movable parts of a model's layers, and their bytes and seconds on each device and on the host.

    `places` are the ids of the devices, and "host". `choices[i]` are the movable parts of layer i.
    """

    def __init__(
        self,
        profile: ModelProfile,
        meter: AnalyticMeter,
        predictor: Predictor,
        overrides: Sequence[Override] | None = None,
        host_price_s: float = 0.0,
    ) -> None:
        """`host_price_s` is added to the seconds of a step for each byte of weights on the host."""
        self._profile, self._meter, self._predictor = profile, meter, predictor
        self._rows, self._price_s = predictor.objective_streams, host_price_s
        self.places = (*meter.devices, HOST)
        self.choices = tuple(_choices(layer) if overrides is None else () for layer in profile.layers)
        self._overridden = [_overridden(layer, overrides or ()) for layer in profile.layers]
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
        """A key that is equal for layers with parts of equal bytes and seconds."""
        return tuple(
            (self._bytes[HOST][layer][n], self._reads[HOST][layer][n])
            for n in range(len(self.choices[layer]))
        )

    def bytes_on(self, place: str, move: Move) -> int:
        """Bytes of a move's part on a device or on the host."""
        return self._bytes[place][move.layer][move.choice]

    def seconds(self, home: str, move: Move) -> float:
        """The seconds that a move adds to a step, if the layer is on `home`."""
        layer, choice, place = move
        reads = self._reads[place][layer][choice] - self._reads[home][layer][choice]
        return reads + self._round_trips[home, place]

    def costs(self, home: str) -> RunCosts:
        """The seconds of runs of items on a device or on the host, with the user's overrides."""
        costs = self._predictor.objective_costs(home, self._rows)
        added_s = [0.0]
        for layer, overridden in zip(self._profile.layers, self._overridden, strict=True):
            added_s.append(self._price_s * layer.bytes if home == HOST else 0.0)
            for place, tensors in overridden.items():
                if place != home:
                    reads = self._read_s(place, layer, tensors) - self._read_s(home, layer, tensors)
                    added_s[-1] += reads + self._round_trips[home, place]
        output_bytes = sum(tensor.n_bytes for tensor in output_tensors(self._profile))
        added_s.append(self._price_s * output_bytes if home == HOST else 0.0)
        return RunCosts(costs.fixed, [a + b for a, b in zip(costs.sums, accumulate(added_s), strict=True)])

    def overridden_bytes(self, device_id: str) -> int:
        """Bytes of all weights that the user's overrides put on a device."""
        return sum(
            self._meter.bytes_of(device_id, overridden.get(device_id, ())) for overridden in self._overridden
        )

    def overridden_sums(self, device_id: str) -> list[int]:
        """sums[i]: bytes of all overridden tensors in the layers before i, with the device's padding."""
        n_bytes = (
            sum(self._meter.bytes_of(device_id, tensors) for tensors in overridden.values())
            for overridden in self._overridden
        )
        return [0, *accumulate(n_bytes)]

    def _read_s(self, place: str, layer: Layer, tensors: Sequence[Tensor]) -> float:
        price_s = self._price_s * self._meter.bytes_of(HOST, tensors) if place == HOST else 0.0
        return self._predictor.read_s(place, layer, tensors, self._rows) + price_s


def _choices(layer: Layer) -> tuple[MovablePart, ...]:
    """The movable parts of a layer."""
    if layer.is_draft:
        return ()
    experts = layer.tensors_of(LayerPart.EXPERTS)
    parts = (MovablePart(part, layer.tensors_of(part)) for part in (_EXPERTS if experts else _DENSE))
    return tuple(part for part in parts if part.tensors)


def _overridden(layer: Layer, overrides: Sequence[Override]) -> dict[str, list[Tensor]]:
    """The tensors of a layer that overrides match, by their new device or "host"."""
    by_place: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in () if layer.is_draft or not overrides else layer.tensors:
        place = overriding_device(overrides, tensor.name)
        if place is not None:
            by_place[place].append(tensor)
    return by_place
