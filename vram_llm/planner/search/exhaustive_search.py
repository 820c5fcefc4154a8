"""A search over all arrangements of a small model: proves an arrangement the best, or finds a better one.

It tries all runs of all orders of all subsets of the devices, and for each of them the places of the layers'
parts by branch and bound. The bound is a Lagrangian one: each byte on a device has a price in seconds, and
the device's free bytes earn the same price. With these prices, each undecided part has its cheapest place.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from typing import NamedTuple

from vram_llm.model.tensors import LayerPart
from vram_llm.planner.search.arrangement import Arrangement, ArrangementSearch
from vram_llm.planner.search.min_memory_cut import LayerCuts, LayerRange
from vram_llm.planner.search.movable_parts import Move
from vram_llm.planner.types import HOST, Meter

_MAX_LAYERS, _MAX_CUTS = 8, 100
_MAX_NODES = 20_000
_PRICE_STEPS = 40
_TRIED = (LayerPart.EXPERTS, LayerPart.FFN, LayerPart.FFN_DOWN)
_ROUNDING = 1 - 1e-12

Bytes = tuple[int, ...]  # on each device


class _Option(NamedTuple):
    """A place of a part of a layer: the seconds and the bytes that its move adds; without a move, 0."""

    seconds: float
    n_bytes: Bytes
    move: Move | None


@dataclass(frozen=True)
class _CutOptions:
    """A cut into runs, and the options of its layers with movable parts."""

    runs: tuple[LayerRange, ...]
    seconds: float  # without moves
    free_bytes: Bytes  # without moves; below 0 if a device exceeds its budget
    layers: list[list[_Option]]

    @cached_property
    def least_bytes(self) -> list[Bytes]:
        """[i]: the least bytes that layers from the i-th on add to each device; each device by itself."""
        sums = [(0,) * len(self.free_bytes)]
        for options in self.layers[::-1]:
            least = (min(option.n_bytes[i] for option in options) for i in range(len(self.free_bytes)))
            sums.append(tuple(map(int.__add__, sums[-1], least)))
        return sums[::-1]

    @cached_property
    def quick_bound(self) -> float:
        """A lower bound of the seconds: each device frees its missing bytes at the best rate."""
        least = sum(min(option.seconds for option in options) for options in self.layers)
        for i, free in enumerate(self.free_bytes):
            freeing = (option for options in self.layers for option in options if option.n_bytes[i] < 0)
            rate = min((max(option.seconds, 0.0) / -option.n_bytes[i] for option in freeing), default=inf)
            least += rate * -free if free < 0 else 0.0
        return self.seconds + least


class _Bound:
    """A lower bound of a cut's seconds if the options of its first layers are decided."""

    def __init__(self, cut: _CutOptions, best_s: float) -> None:
        """Subgradient steps towards `best_s` find the prices."""
        prices, highest = (0.0,) * len(cut.free_bytes), -inf
        for _ in range(_PRICE_STEPS):
            chosen = [min(options, key=partial(_priced, prices)) for options in cut.layers]
            priced = [_priced(prices, option) for option in chosen]
            bound = cut.seconds + sum(priced) - _dot(prices, cut.free_bytes)
            if bound > highest:
                highest, self._prices = bound, prices
                start = -_dot(prices, cut.free_bytes)
                self._rest = [*itertools.accumulate(priced[::-1], initial=start)][::-1]
            target_s = 2 * bound if best_s == inf else best_s
            over = [
                sum(option.n_bytes[i] for option in chosen) - free for i, free in enumerate(cut.free_bytes)
            ]
            length = sum(n * n for n in over)
            if bound >= target_s or not length:
                break
            step = (target_s - bound) / length
            prices = tuple(max(price + step * n, 0.0) for price, n in zip(prices, over, strict=True))

    def priced(self, option: _Option) -> float:
        """The seconds of an option, with the price of its bytes."""
        return _priced(self._prices, option)

    def least(self, seconds: float, added_bytes: Bytes, n_decided: int) -> float:
        """The least seconds if the first `n_decided` layers take `seconds` and add `added_bytes`."""
        return seconds + _dot(self._prices, added_bytes) + self._rest[n_decided]


def is_small(layer_cuts: LayerCuts) -> bool:
    """Whether all cuts can be tried."""
    if layer_cuts.n_items > _MAX_LAYERS + 1:
        return False
    n_cuts = (
        math.perm(len(layer_cuts.ids), n_used) * math.comb(n_items - 1, n_used - 1)
        for n_items in range(1, layer_cuts.n_items + 1)
        for n_used in range(1, len(layer_cuts.ids) + 1)
    )
    return sum(n_cuts) <= _MAX_CUTS


class ExhaustiveSearch:
    """Finds the fastest arrangement of a small model."""

    def __init__(self, search: ArrangementSearch, measure: Meter, n_host: int | None) -> None:
        self._search, self._measure, self._n_host = search, measure, n_host
        self._parts, self._run_bytes = search.parts, search.run_bytes
        self._devices = self._parts.places[:-1]
        self.n_nodes = 0
        self._best: Arrangement | None = None
        self._best_s = inf

    def improved(self, best: Arrangement | None) -> Arrangement | None:
        """The best arrangement; `best` if none is faster, or if there are too many to try."""
        self._best = best
        self._best_s = inf if best is None else best.seconds * _ROUNDING
        cuts = sorted(map(self._cut_options, self._runs()), key=lambda cut: cut.quick_bound)
        for cut in cuts:
            if cut.quick_bound < self._best_s:
                self._explore(cut, _Bound(cut, self._best_s), cut.seconds, (0,) * len(cut.free_bytes), ())
        return self._best

    def _explore(
        self, cut: _CutOptions, bound: _Bound, seconds: float, added_bytes: Bytes, decided: tuple[int, ...]
    ) -> None:
        """Try all arrangements of a cut whose first layers have the options `decided`.

        These take `seconds` and add `added_bytes`.
        """
        self.n_nodes += 1
        n_decided = len(decided)
        if self.n_nodes > _MAX_NODES or bound.least(seconds, added_bytes, n_decided) >= self._best_s:
            return
        least_bytes = map(int.__add__, added_bytes, cut.least_bytes[n_decided])
        if any(n_bytes > free for n_bytes, free in zip(least_bytes, cut.free_bytes, strict=True)):
            return
        if n_decided == len(cut.layers):
            self._keep_if_better(cut, seconds, decided)
            return
        options = cut.layers[n_decided]
        first = decided[-1] if n_decided and _are_equal(options, cut.layers[n_decided - 1]) else 0
        order = sorted(range(first, len(options)), key=lambda n: bound.priced(options[n]))
        for n in order:
            new_bytes = tuple(map(int.__add__, added_bytes, options[n].n_bytes))
            self._explore(cut, bound, seconds + options[n].seconds, new_bytes, (*decided, n))

    def _keep_if_better(self, cut: _CutOptions, seconds: float, decided: Sequence[int]) -> None:
        """Keep an arrangement if it is faster than the best one and fits."""
        if seconds >= self._best_s:
            return
        moves = (options[n].move for options, n in zip(cut.layers, decided, strict=True))
        arrangement = Arrangement(cut.runs, tuple(move for move in moves if move is not None), seconds)
        if self._measure(self._search.placement(arrangement)).fits:
            self._best, self._best_s = arrangement, seconds * _ROUNDING

    def _runs(self) -> Iterator[tuple[LayerRange, ...]]:
        """All runs of all orders of all subsets of the devices, after any number of items on the host."""
        n_items = self._run_bytes.n_items
        counts = range(n_items + 1) if self._n_host is None else (self._n_host,)
        for n_host in counts:
            if n_host == n_items:
                yield ()
            for n_used in range(1, min(len(self._devices), n_items - n_host) + 1):
                for order in itertools.permutations(self._devices, n_used):
                    for inner in itertools.combinations(range(n_host + 1, n_items), n_used - 1):
                        bounds = (n_host, *inner, n_items)
                        yield tuple(map(LayerRange, order, bounds, bounds[1:]))

    def _cut_options(self, runs: tuple[LayerRange, ...]) -> _CutOptions:
        run_bytes = self._run_bytes
        n_host = runs[0].start if runs else run_bytes.n_items
        least_bytes = {
            device_id: run_bytes.empty_bytes(device_id, with_compute=False) for device_id in self._devices
        }
        homes = dict.fromkeys(range(n_host), HOST)
        for device_id, start, end in runs:
            least_bytes[device_id] = run_bytes.least_bytes(device_id, start, end, n_host)
            homes |= dict.fromkeys(range(start, end), device_id)
        with_parts = [layer for layer, choices in enumerate(self._parts.choices) if choices and runs]
        with_parts.sort(key=lambda layer: (homes[layer], self._parts.kind(layer)))
        budgets = run_bytes.meter.budgets
        return _CutOptions(
            runs,
            self._search.seconds_of(runs),
            tuple(budgets[device_id] - least_bytes[device_id] for device_id in self._devices),
            [self._options(layer, homes[layer]) for layer in with_parts],
        )

    def _options(self, layer: int, home: str) -> list[_Option]:
        options = [_Option(0.0, (0,) * len(self._devices), None)]
        for choice in (n for n, part in enumerate(self._parts.choices[layer]) if part.part in _TRIED):
            for place in self._parts.places:
                if place == home:
                    continue
                move = Move(layer, choice, place)
                changes = {home: -self._parts.bytes_on(home, move), place: self._parts.bytes_on(place, move)}
                n_bytes = tuple(changes.get(device_id, 0) for device_id in self._devices)
                options.append(_Option(self._parts.seconds(home, move), n_bytes, move))
        return options


def _are_equal(one: Sequence[_Option], other: Sequence[_Option]) -> bool:
    """Whether the options of two layers have equal seconds and bytes."""
    return [option[:2] for option in one] == [option[:2] for option in other]


def _priced(prices: Sequence[float], option: _Option) -> float:
    return option.seconds + _dot(prices, option.n_bytes)


def _dot(prices: Sequence[float], n_bytes: Sequence[int]) -> float:
    return sum(price * n for price, n in zip(prices, n_bytes, strict=True))
