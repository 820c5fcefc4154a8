"""Arrangements: runs of items on devices, and parts of layers on other devices or on the host.

The search minimises the time of a decode step. Each device keeps as many parts of its layers as its budget
allows; the other parts are on the host. Dynamic programming (order_search.py) finds the best cut, from the
least time of every run (run_times.py); the first layers may be on the host as a whole. Then parts on the host
move to devices with free bytes. So a fast device may hold attention and the KV cache of all layers, and slow
devices hold parts alone. Cuts without layers on the slowest devices are tried too, for each number of them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import inf
from typing import NamedTuple

from vram_llm.model.tensors import LayerPart
from vram_llm.planner.overrides import Override, overrides_of
from vram_llm.planner.search.cheapest_moves import NO_MOVES_SUFFICE, CheapestMoves
from vram_llm.planner.search.min_memory_cut import LayerCuts, LayerRange
from vram_llm.planner.search.movable_parts import MovableParts, Move
from vram_llm.planner.search.order_search import Cut, Step, Times, in_any_order, in_order
from vram_llm.planner.search.run_times import RunBytes, RunTimes, run_times
from vram_llm.planner.types import HOST, Placement

_WORTH_HOST_LAYERS = 0.95  # whole layers go to the host if a step then takes less than this share of the time
_WORTH_REORDERING = 0.999  # another order must take less than this share of the time of the machine's order


class Arrangement(NamedTuple):
    """Runs of items, moved parts of layers, and the seconds of a decode step."""

    runs: tuple[LayerRange, ...]
    moves: tuple[Move, ...]
    seconds: float


class ArrangementSearch:
    """Finds arrangements of one model."""

    def __init__(
        self, layer_cuts: LayerCuts, parts: MovableParts, overrides: tuple[Override, ...] = ()
    ) -> None:
        """`overrides` are the user's; with overrides, no part of `parts` may move."""
        self._layer_cuts, self.parts, self._overrides = layer_cuts, parts, overrides
        self.run_bytes = RunBytes(parts, layer_cuts.meter, layer_cuts.n_items - 1)
        self.costs = {place: parts.costs(place) for place in parts.places}
        self._cheapest_moves = {
            device_id: CheapestMoves(parts, device_id, HOST) for device_id in layer_cuts.ids
        }

    def best(self, budgets: Mapping[str, int], n_host: int | None, most_s: float = inf) -> Arrangement | None:
        """The fastest arrangement in which no device exceeds its budget; None if the search finds none.

        `n_host` is the number of items on the host. With None, whole layers go to the host only if that is
        noticeably faster. Arrangements that take longer than `most_s` may be left out.
        """
        times = self._times(budgets, most_s)
        steps = {device_id: times[device_id].step for device_id in self._layer_cuts.ids}
        best = self._best_of(steps, n_host, budgets)
        if n_host is None and best is not None and _on_host(best):
            on_devices = self._best_of(steps, 0, budgets)
            if on_devices is not None and best.seconds >= _WORTH_HOST_LAYERS * on_devices.seconds:
                return on_devices
        return best

    def _best_of(
        self, steps: Mapping[str, Step], n_host: int | None, budgets: Mapping[str, int]
    ) -> Arrangement | None:
        found = [self.with_moves(cut.runs, budgets) for cut in self._cuts(steps, n_host)]
        if n_host is None or n_host == self._layer_cuts.n_items:
            found.append(self.with_moves([], budgets))
        arrangements = [arrangement for arrangement in found if arrangement is not None]
        return min(arrangements, key=lambda arrangement: arrangement.seconds, default=None)

    def _cuts(self, steps: Mapping[str, Step], n_host: int | None) -> Iterator[Cut]:
        """The best cut, and the best cuts without layers on the slowest devices."""
        ids, start = self._layer_cuts.ids, self._at_start(n_host)
        slowest = sorted(ids, key=lambda device_id: -self.costs[device_id].run(0, self._layer_cuts.n_items))
        if (cut := self._best_cut(steps, start)) is not None:
            yield cut
        for n_without_layers in range(1, len(ids) if any(self.parts.choices) else 0):
            with_layers = slowest[n_without_layers:]
            machine_order = tuple(device_id for device_id in ids if device_id in with_layers)
            for order in dict.fromkeys((tuple(with_layers), machine_order)):
                if (cut := in_order(order, steps, start)) is not None:
                    yield cut

    def _times(self, budgets: Mapping[str, int], most_s: float) -> dict[str, RunTimes]:
        times: dict[str, RunTimes] = {}
        for alike in self._layer_cuts.classes:
            budget_bytes = min(budgets[device_id] for device_id in alike)
            times |= dict.fromkeys(alike, run_times(self.run_bytes, alike[0], budget_bytes, HOST, most_s))
        return times

    def _at_start(self, n_host: int | None) -> Times:
        """The seconds of the host, by the number of items on it."""
        return [
            self.costs[HOST].run(0, item) if n_host is None or item == n_host else inf
            for item in range(self._layer_cuts.n_items)
        ] + [inf]

    def _best_cut(self, steps: Mapping[str, Step], start: Times) -> Cut | None:
        """The best cut in the machine's order, or in another order that is noticeably faster."""
        best = in_order(self._layer_cuts.ids, steps, start)
        if self._layer_cuts.reorders:
            least = best.seconds * _WORTH_REORDERING if best is not None else inf
            best = in_any_order(self._layer_cuts.classes, steps, start, self.rest, least) or best
        return best

    @cached_property
    def rest(self) -> Times:
        """rest[i]: a lower bound of the seconds of the items from i on: each item is in its fastest place."""
        rest = [0.0]
        for item in range(self._layer_cuts.n_items - 1, -1, -1):
            rest.append(rest[-1] + min(self._least_s(place, item) for place in self.parts.places))
        return rest[::-1]

    def _least_s(self, home: str, item: int) -> float:
        sums = self.costs[home].sums
        choices = range(len(self.parts.choices[item])) if item < self._layer_cuts.n_items - 1 else ()
        moves = (Move(item, choice, place) for choice in choices for place in self.parts.places)
        gain = min((self.parts.seconds(home, move) for move in moves), default=0.0)
        return sums[item + 1] - sums[item] + min(gain, 0.0)

    def seconds_of(self, runs: Sequence[LayerRange]) -> float:
        """The seconds of a step of runs and of the items before them on the host, without moved parts."""
        n_host = runs[0].start if runs else self._layer_cuts.n_items
        on_devices = sum(self.costs[run.device_id].run(run.start, run.end) for run in runs)
        return self.costs[HOST].run(0, n_host) + on_devices

    def with_moves(self, runs: Sequence[LayerRange], budgets: Mapping[str, int]) -> Arrangement | None:
        """The arrangement of these runs with the moves that budgets and times need; None if none fits."""
        free_bytes = {
            device_id: budgets[device_id] - self.run_bytes.empty_bytes(device_id)
            for device_id in self._layer_cuts.ids
        }
        homes: dict[int, str] = {}
        moves: list[Move] = []
        n_host = runs[0].start if runs else self._layer_cuts.n_items
        seconds = self.costs[HOST].run(0, n_host)
        for run in runs:
            layers = range(run.start, min(run.end, self._layer_cuts.n_items - 1))
            over_bytes = self.run_bytes.bytes_of(*run) - budgets[run.device_id]
            cheapest_moves = self._cheapest_moves[run.device_id]
            round_trip_bytes = self._layer_cuts.meter.round_trip_bytes
            move_set = cheapest_moves.cheapest(
                run.start, layers.stop, over_bytes + round_trip_bytes if over_bytes > 0 else over_bytes
            )
            if move_set is NO_MOVES_SUFFICE:
                return None
            moves_of_run = cheapest_moves.moves(move_set, run.start, layers.stop)
            moves += moves_of_run
            seconds += self.costs[run.device_id].run(run.start, run.end) + move_set.seconds
            moved_bytes = sum(self.parts.bytes_on(run.device_id, move) for move in moves_of_run)
            free_bytes[run.device_id] = moved_bytes - over_bytes - round_trip_bytes
            homes |= dict.fromkeys(layers, run.device_id)
        arrangement = Arrangement(tuple(runs), tuple(moves), seconds)
        return self._with_free_bytes_filled(arrangement, homes, free_bytes)

    def _with_free_bytes_filled(
        self, arrangement: Arrangement, homes: Mapping[int, str], free_bytes: dict[str, int]
    ) -> Arrangement:
        """The arrangement with parts on devices with free bytes in place of the host.

        The parts that gain the most seconds for each byte move first.
        """
        parts, seconds, moved = self.parts, arrangement.seconds, dict.fromkeys(arrangement.moves)
        gains = []
        for move in arrangement.moves:
            for device_id in self._layer_cuts.ids:
                home, other = homes[move.layer], move._replace(place=device_id)
                n_bytes = parts.bytes_on(other.place, other)
                if device_id != home and n_bytes <= free_bytes[device_id]:
                    gain_s = parts.seconds(home, move) - parts.seconds(home, other)
                    gains.append((-gain_s / n_bytes, gain_s, move, other))
        for _, gain_s, move, other in sorted(gains):
            n_bytes = parts.bytes_on(other.place, other)
            if gain_s > 0 and move in moved and n_bytes <= free_bytes[other.place]:
                del moved[move]
                moved[other] = None
                free_bytes[other.place] -= n_bytes
                seconds -= gain_s
        return Arrangement(arrangement.runs, tuple(sorted(moved)), seconds)

    def device_bytes(self, arrangement: Arrangement) -> dict[str, int]:
        """Bytes on each device, as this search counts them; of an idle device, its bytes without layers."""
        device_bytes = {
            device_id: self.run_bytes.empty_bytes(device_id) for device_id in self._layer_cuts.ids
        }
        homes: dict[int, str] = {}
        for run in arrangement.runs:
            device_bytes[run.device_id] = self.run_bytes.bytes_of(*run)
            homes |= dict.fromkeys(range(run.start, run.end), run.device_id)
        with_moves = {homes[move.layer] for move in arrangement.moves if move.layer in homes}
        for device_id in with_moves:
            device_bytes[device_id] += self._layer_cuts.meter.round_trip_bytes
        for move in arrangement.moves:
            home = homes.get(move.layer, HOST)
            if home != HOST:
                device_bytes[home] -= self.parts.bytes_on(home, move)
            if move.place != HOST:
                device_bytes[move.place] += self.parts.bytes_on(move.place, move)
        return device_bytes

    def placement(self, arrangement: Arrangement) -> Placement:
        """The placement of an arrangement."""
        moved: dict[tuple[LayerPart, str], list[int]] = defaultdict(list)
        for layer, choice, place in arrangement.moves:
            moved[self.parts.choices[layer][choice].part, place].append(layer)
        overrides = overrides_of(moved, (HOST, *self._layer_cuts.ids))
        return self._layer_cuts.placement(list(arrangement.runs), self._overrides or overrides)


def _on_host(arrangement: Arrangement) -> bool:
    """Whether whole layers are on the host."""
    return not arrangement.runs or arrangement.runs[0].start > 0
