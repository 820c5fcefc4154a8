"""Bytes that a device loses if parts of its layers move elsewhere, and the seconds that this adds to a step.

Layers whose parts are alike in bytes and seconds are of one kind, and a model has few kinds. To lose so many
bytes in the least time, a run of layers loses the parts with the fewest seconds per byte first; the last part
may be a smaller one. This is the least time if all layers are alike, and close to it otherwise.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import inf
from typing import NamedTuple

from vram_llm.planner.search.movable_parts import MovableParts, Move


class Taken(NamedTuple):
    """Parts that a run of layers loses: `n_layers` layers of a kind lose the part `choice`."""

    kind: int
    choice: int
    n_layers: int


class Loss(NamedTuple):
    """The seconds that moves add to a step; infinite if the layers cannot lose so much."""

    seconds: float
    taken: tuple[Taken, ...] = ()


NOTHING, IMPOSSIBLE = Loss(0.0), Loss(inf)


class Losses:
    """The parts that the layers on one device may lose to one place."""

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
        self.gains = any(seconds < 0 for seconds, *_ in self._by_seconds)

    def least(self, start: int, end: int, over_bytes: int) -> Loss:
        """The least time in which layers start to end-1 lose `over_bytes`."""
        if over_bytes <= 0 and not self.gains:
            return NOTHING
        losses = (self._least(order, start, end, over_bytes) for order in self._orders)
        return min(losses, key=lambda loss: loss.seconds, default=IMPOSSIBLE)

    def moves(self, loss: Loss, start: int, end: int) -> list[Move]:
        """The moves of a loss: of alike layers the first ones lose their parts."""
        moves, layers = [], range(start, end)
        of_kind = {kind: iter([n for n in layers if self._kinds[n] == kind]) for kind, _, _ in loss.taken}
        for kind, choice, n_layers in loss.taken:
            moves += [Move(next(of_kind[kind]), choice, self._place) for _ in range(n_layers)]
        return sorted(moves)

    def _least(self, order: Sequence[tuple[int, int]], start: int, end: int, over_bytes: int) -> Loss:
        """Like `least`, with the parts `order` = (kind, choice), the first ones first."""
        seconds, taken, exhausted = 0.0, [], set()
        for kind, choice in order:
            n_bytes, each_s = self._options[kind][choice]
            count = self._sums[kind][end] - self._sums[kind][start]
            if over_bytes <= 0 <= each_s:
                break
            if each_s >= 0 and count * n_bytes >= over_bytes:
                count = (over_bytes - 1) // n_bytes  # besides the last
                left = over_bytes - count * n_bytes
                last_s, last_kind, last_choice, _ = next(
                    option
                    for option in self._by_seconds
                    if option[3] >= left
                    and option[1] not in exhausted
                    and self._sums[option[1]][end] > self._sums[option[1]][start]
                )
                taken += [Taken(kind, choice, count), Taken(last_kind, last_choice, 1)]
                return Loss(seconds + count * each_s + last_s, tuple(taken))
            seconds += count * each_s
            over_bytes -= count * n_bytes
            taken.append(Taken(kind, choice, count))
            exhausted.add(kind)
        return Loss(seconds, tuple(taken)) if over_bytes <= 0 else IMPOSSIBLE


def _orders(kinds: Sequence[Sequence[tuple[int, float]]]) -> list[list[tuple[int, int]]]:
    """(kind, choice) by seconds per byte: with the best choice of each kind, and with the largest."""
    best = [min(range(len(options)), key=lambda c: options[c][1] / options[c][0]) for options in kinds]
    most = [max(range(len(options)), key=lambda c: options[c][0]) for options in kinds]
    orders = [list(enumerate(choices)) for choices in ([best] if best == most else [best, most])]
    for order in orders:
        order.sort(key=lambda pair: kinds[pair[0]][pair[1]][1] / kinds[pair[0]][pair[1]][0])
    return orders
