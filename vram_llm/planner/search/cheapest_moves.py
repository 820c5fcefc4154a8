"""The moves of parts of layers that free bytes on a device and add the least seconds to a decode step.

Layers with parts of equal bytes and seconds are of one kind, and a model has few kinds. The parts with the
fewest seconds for each byte move first; the last part may be a smaller one. This gives the least time if all
layers are of one kind, and nearly the least time otherwise.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import inf
from typing import NamedTuple

from vram_llm.planner.search.movable_parts import MovableParts, Move


class MovedParts(NamedTuple):
    """Equal moves: the part `choice` of `n_layers` layers of a kind."""

    kind: int
    choice: int
    n_layers: int


class MoveSet(NamedTuple):
    """Moves of one run of layers, and the seconds that they add to a step."""

    seconds: float  # infinite: no moves free enough bytes
    parts_moved: tuple[MovedParts, ...] = ()


NO_MOVES_NEEDED, NO_MOVES_SUFFICE = MoveSet(0.0), MoveSet(inf)


class CheapestMoves:
    """Finds the cheapest moves of parts of the layers on one device to one place."""

    def __init__(self, parts: MovableParts, home: str, place: str) -> None:
        self._place = place
        kinds: dict[tuple[tuple[int, float], ...], int] = {}
        self._kinds = []  # of each layer; -1: none of its parts may move
        for layer, choices in enumerate(parts.choices):
            moves = [Move(layer, choice, place) for choice in range(len(choices))]
            options = tuple((parts.bytes_on(home, move), parts.seconds(home, move)) for move in moves)
            self._kinds.append(kinds.setdefault(options, len(kinds)) if options else -1)
        self._options = list(kinds)
        self._sums = [[0, *accumulate(int(kind == k) for kind in self._kinds)] for k in range(len(kinds))]
        self._orders = _orders(self._options)
        flat = ((s, k, choice, b) for k, options in enumerate(kinds) for choice, (b, s) in enumerate(options))
        self._by_seconds = sorted(flat)
        self.has_gains = any(seconds < 0 for seconds, *_ in self._by_seconds)  # whether a move saves time

    def cheapest(self, start: int, end: int, over_bytes: int) -> MoveSet:
        """The moves that free `over_bytes` of layers start to end-1 and add the least seconds."""
        if over_bytes <= 0 and not self.has_gains:
            return NO_MOVES_NEEDED
        best = NO_MOVES_SUFFICE
        for order in self._orders:  # tens of thousands of times a plan
            move_set = self._cheapest_in_order(order, start, end, over_bytes)
            if move_set.seconds < best.seconds:
                best = move_set
        return best

    def moves(self, move_set: MoveSet, start: int, end: int) -> list[Move]:
        """The moves of a set, for layers start to end-1: of equal layers, parts of the first ones move."""
        moves, layers = [], range(start, end)
        of_kind = {
            kind: iter([n for n in layers if self._kinds[n] == kind]) for kind, _, _ in move_set.parts_moved
        }
        for kind, choice, n_layers in move_set.parts_moved:
            moves += [Move(next(of_kind[kind]), choice, self._place) for _ in range(n_layers)]
        return sorted(moves)

    def _cheapest_in_order(
        self, order: Sequence[tuple[int, int]], start: int, end: int, over_bytes: int
    ) -> MoveSet:
        """`cheapest`, with the parts (kind, choice) in this order."""
        seconds, parts_moved, exhausted = 0.0, [], set()
        for kind, choice in order:
            n_bytes, move_s = self._options[kind][choice]
            count = self._sums[kind][end] - self._sums[kind][start]
            if over_bytes <= 0 <= move_s:
                break
            if move_s >= 0 and count * n_bytes >= over_bytes:
                count = (over_bytes - 1) // n_bytes  # without the last part
                last_bytes = over_bytes - count * n_bytes
                last_s, last_kind, last_choice, _ = next(
                    option
                    for option in self._by_seconds
                    if option[3] >= last_bytes
                    and option[1] not in exhausted
                    and self._sums[option[1]][end] > self._sums[option[1]][start]
                )
                parts_moved += [MovedParts(kind, choice, count), MovedParts(last_kind, last_choice, 1)]
                return MoveSet(seconds + count * move_s + last_s, tuple(parts_moved))
            seconds += count * move_s
            over_bytes -= count * n_bytes
            parts_moved.append(MovedParts(kind, choice, count))
            exhausted.add(kind)
        return MoveSet(seconds, tuple(parts_moved)) if over_bytes <= 0 else NO_MOVES_SUFFICE


def _orders(kinds: Sequence[Sequence[tuple[int, float]]]) -> list[list[tuple[int, int]]]:
    """Orders of (kind, choice) by seconds per byte: of each kind's cheapest choices, and of its largest."""
    cheapest = [min(range(len(options)), key=lambda c: options[c][1] / options[c][0]) for options in kinds]
    largest = [max(range(len(options)), key=lambda c: options[c][0]) for options in kinds]
    choices_of_kinds = [cheapest] if cheapest == largest else [cheapest, largest]
    orders = [list(enumerate(choices)) for choices in choices_of_kinds]
    for order in orders:
        order.sort(key=lambda pair: kinds[pair[0]][pair[1]][1] / kinds[pair[0]][pair[1]][0])
    return orders
