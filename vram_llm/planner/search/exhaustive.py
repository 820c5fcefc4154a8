"""Every arrangement of a small model: proves an arrangement the best, or finds a better one.

All runs of all orders of all subsets of the devices are tried, and for each the places of the layers' parts,
by branch and bound. The bound is that of Lagrange: each byte on a device costs seconds, at a price, and its
room earns as much. With such prices, the parts that are not decided each go where they cost the least.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from typing import NamedTuple

from vram_llm.model.tensors import LayerPart
from vram_llm.planner.search.arrange import Arrangement, Arranger
from vram_llm.planner.search.min_memory_cut import Cutter, Run
from vram_llm.planner.search.movable_parts import Move
from vram_llm.planner.types import HOST, Meter

_FEW_LAYERS, _FEW_CUTS = 8, 100
_MOST_NODES = 20_000
_PRICE_STEPS = 40
_TRIED = (LayerPart.EXPERTS, LayerPart.FFN, LayerPart.FFN_DOWN)
_ROUNDING = 1 - 1e-12

Bytes = tuple[int, ...]  # on each device


class _Option(NamedTuple):
    """A place of a layer's parts: seconds and bytes more than with all of them on the layer's device."""

    seconds: float
    n_bytes: Bytes
    move: Move | None


@dataclass(frozen=True)
class _Cut:
    """Runs, their seconds, the bytes left on each device, and the options of each layer with parts."""

    runs: tuple[Run, ...]
    seconds: float
    left: Bytes
    layers: list[list[_Option]]

    @cached_property
    def least_bytes(self) -> list[Bytes]:
        """[i]: the least bytes of the layers from the i-th on, for each device alone."""
        sums = [(0,) * len(self.left)]
        for options in self.layers[::-1]:
            least = (min(option.n_bytes[i] for option in options) for i in range(len(self.left)))
            sums.append(tuple(map(int.__add__, sums[-1], least)))
        return sums[::-1]

    @cached_property
    def quick_bound(self) -> float:
        """A lower bound of the seconds: bytes that a device must lose go at the best rate."""
        least = sum(min(option.seconds for option in options) for options in self.layers)
        for i, left in enumerate(self.left):
            losing = (each for options in self.layers for each in options if each.n_bytes[i] < 0)
            rate = min((max(each.seconds, 0.0) / -each.n_bytes[i] for each in losing), default=inf)
            least += rate * -left if left < 0 else 0.0
        return self.seconds + least


class _Bound:
    """A lower bound of a cut's seconds with the first options decided."""

    def __init__(self, cut: _Cut, best_s: float) -> None:
        """The prices are found by subgradient steps towards `best_s`."""
        prices, most = (0.0,) * len(cut.left), -inf
        for _ in range(_PRICE_STEPS):
            chosen = [min(options, key=partial(_priced, prices)) for options in cut.layers]
            priced = [_priced(prices, option) for option in chosen]
            bound = cut.seconds + sum(priced) - _dot(prices, cut.left)
            if bound > most:
                most, self._prices = bound, prices
                self._rest = [*itertools.accumulate(priced[::-1], initial=-_dot(prices, cut.left))][::-1]
            target_s = 2 * bound if best_s == inf else best_s
            over = [sum(option.n_bytes[i] for option in chosen) - left for i, left in enumerate(cut.left)]
            length = sum(n * n for n in over)
            if bound >= target_s or not length:
                break
            step = (target_s - bound) / length
            prices = tuple(max(price + step * n, 0.0) for price, n in zip(prices, over, strict=True))

    def priced(self, option: _Option) -> float:
        """Seconds of an option with the prices of its bytes."""
        return _priced(self._prices, option)

    def least(self, seconds: float, more: Bytes, n_done: int) -> float:
        """The least seconds after `n_done` options, which take `more` bytes."""
        return seconds + _dot(self._prices, more) + self._rest[n_done]


def is_small(cutter: Cutter) -> bool:
    """Whether all cuts can be tried."""
    if cutter.n_items > _FEW_LAYERS + 1:
        return False
    n_cuts = (
        math.perm(len(cutter.ids), n_used) * math.comb(n_items - 1, n_used - 1)
        for n_items in range(1, cutter.n_items + 1)
        for n_used in range(1, len(cutter.ids) + 1)
    )
    return sum(n_cuts) <= _FEW_CUTS


class Exhaustive:
    """Searches an arrangement that is faster than a known one."""

    def __init__(self, arranger: Arranger, measure: Meter, n_host: int | None) -> None:
        self._arranger, self._measure, self._n_host = arranger, measure, n_host
        self._parts, self._layout = arranger.parts, arranger.layout
        self._devices = self._parts.places[:-1]
        self.n_nodes = 0
        self._best: Arrangement | None = None
        self._best_s = inf

    def improved(self, best: Arrangement | None) -> Arrangement | None:
        """The best arrangement; `best` if none is faster, or if there are too many to try."""
        self._best = best
        self._best_s = inf if best is None else best.seconds * _ROUNDING
        cuts = sorted(map(self._cut, self._runs()), key=lambda cut: cut.quick_bound)
        for cut in cuts:
            if cut.quick_bound < self._best_s:
                self._explore(cut, _Bound(cut, self._best_s), cut.seconds, (0,) * len(cut.left), ())
        return self._best

    def _explore(
        self, cut: _Cut, bound: _Bound, seconds: float, more: Bytes, decided: tuple[int, ...]
    ) -> None:
        """All arrangements of a cut with the first options decided, which take `more` bytes."""
        self.n_nodes += 1
        n_done = len(decided)
        if self.n_nodes > _MOST_NODES or bound.least(seconds, more, n_done) >= self._best_s:
            return
        least_more = map(int.__add__, more, cut.least_bytes[n_done])
        if any(n_bytes > left for n_bytes, left in zip(least_more, cut.left, strict=True)):
            return
        if n_done == len(cut.layers):
            self._take(cut, seconds, decided)
            return
        options = cut.layers[n_done]
        first = decided[-1] if n_done and _are_alike(options, cut.layers[n_done - 1]) else 0
        order = sorted(range(first, len(options)), key=lambda n: bound.priced(options[n]))
        for n in order:
            after = tuple(map(int.__add__, more, options[n].n_bytes))
            self._explore(cut, bound, seconds + options[n].seconds, after, (*decided, n))

    def _take(self, cut: _Cut, seconds: float, decided: Sequence[int]) -> None:
        """Keep an arrangement if it is faster than the best one and fits."""
        if seconds >= self._best_s:
            return
        moves = (options[n].move for options, n in zip(cut.layers, decided, strict=True))
        arrangement = Arrangement(cut.runs, tuple(move for move in moves if move is not None), seconds)
        if self._measure(self._arranger.placement(arrangement)).fits:
            self._best, self._best_s = arrangement, seconds * _ROUNDING

    def _runs(self) -> Iterator[tuple[Run, ...]]:
        """All runs of all orders of all subsets of the devices, after any number of items on the host."""
        n_items = self._layout.n_items
        counts = range(n_items + 1) if self._n_host is None else (self._n_host,)
        for n_host in counts:
            if n_host == n_items:
                yield ()
            for n_used in range(1, min(len(self._devices), n_items - n_host) + 1):
                for order in itertools.permutations(self._devices, n_used):
                    for inner in itertools.combinations(range(n_host + 1, n_items), n_used - 1):
                        bounds = (n_host, *inner, n_items)
                        yield tuple(map(Run, order, bounds, bounds[1:]))

    def _cut(self, runs: tuple[Run, ...]) -> _Cut:
        layout = self._layout
        n_host = runs[0].start if runs else layout.n_items
        held = {each: layout.empty_bytes(each, with_compute=False) for each in self._devices}
        homes = dict.fromkeys(range(n_host), HOST)
        for device_id, start, end in runs:
            held[device_id] = layout.least_bytes(device_id, start, end, n_host)
            homes |= dict.fromkeys(range(start, end), device_id)
        with_parts = [layer for layer, choices in enumerate(self._parts.choices) if choices and runs]
        with_parts.sort(key=lambda layer: (homes[layer], self._parts.kind(layer)))
        return _Cut(
            runs,
            self._arranger.seconds_of(runs),
            tuple(layout.meter.budgets[device_id] - held[device_id] for device_id in self._devices),
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


def _are_alike(one: Sequence[_Option], other: Sequence[_Option]) -> bool:
    """Whether the options of two layers are equal."""
    return [option[:2] for option in one] == [option[:2] for option in other]


def _priced(prices: Sequence[float], option: _Option) -> float:
    return option.seconds + _dot(prices, option.n_bytes)


def _dot(prices: Sequence[float], n_bytes: Sequence[int]) -> float:
    return sum(price * n for price, n in zip(prices, n_bytes, strict=True))
