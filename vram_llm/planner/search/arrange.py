"""Runs of items on devices and parts of layers elsewhere, so that a decode step takes the least time.

Each device keeps what its room allows of its layers' parts; the others are on the host. The best cut for that
is found by dynamic programming (order_search.py) with the least time of every run (run_times.py); the first
layers may be on the host whole. Then parts on the host go to devices that have room left. So a fast device
may hold attention and the KV cache of all layers, and slow devices only parts. Cuts without layers on the
slowest devices are tried as well, for each number of them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import inf
from typing import NamedTuple

from vram_llm.model.tensors import LayerPart
from vram_llm.planner.overrides import Override, overrides_of
from vram_llm.planner.search.losses import IMPOSSIBLE, Losses
from vram_llm.planner.search.min_memory_cut import Cutter, Run
from vram_llm.planner.search.movable_parts import MovableParts, Move
from vram_llm.planner.search.order_search import Cut, Step, Times, in_any_order, in_order
from vram_llm.planner.search.run_times import Layout, RunTimes, run_times
from vram_llm.planner.types import HOST, Placement

_WORTH_HOST_LAYERS = 0.95  # whole layers go to the host if a step then takes less than this share of the time
_WORTH_REORDERING = 0.999  # another order must take less than this share of the time of the machine's order


class Arrangement(NamedTuple):
    """Runs of items, parts elsewhere, and the seconds of a decode step."""

    runs: tuple[Run, ...]
    moves: tuple[Move, ...]
    seconds: float


class Arranger:
    """Finds arrangements of one model."""

    def __init__(self, cutter: Cutter, parts: MovableParts, overrides: tuple[Override, ...] = ()) -> None:
        """`overrides` are the user's; `parts` then has none that may move."""
        self._cutter, self.parts, self._overrides = cutter, parts, overrides
        self.layout = Layout(parts, cutter.meter, cutter.n_items - 1)
        self.costs = {place: parts.costs(place) for place in parts.places}
        self._losses = {device_id: Losses(parts, device_id, HOST) for device_id in cutter.ids}

    def best(self, rooms: Mapping[str, int], n_host: int | None) -> Arrangement | None:
        """The fastest arrangement found in which each device holds at most its room; None if there is none.

        `n_host` is the number of items on the host; None: any. Then whole layers go to the host only if that
        is noticeably faster.
        """
        times = self._times(rooms)
        steps = {device_id: times[device_id].step for device_id in self._cutter.ids}
        best = self._best_of(steps, n_host, rooms)
        if n_host is None and best is not None and _on_host(best):
            without = self._best_of(steps, 0, rooms)
            if without is not None and best.seconds >= _WORTH_HOST_LAYERS * without.seconds:
                return without
        return best

    def _best_of(
        self, steps: Mapping[str, Step], n_host: int | None, rooms: Mapping[str, int]
    ) -> Arrangement | None:
        found = [self.finished(cut.runs, rooms) for cut in self._cuts(steps, n_host)]
        if n_host is None or n_host == self._cutter.n_items:
            found.append(self.finished([], rooms))
        known = [arrangement for arrangement in found if arrangement is not None]
        return min(known, key=lambda arrangement: arrangement.seconds, default=None)

    def _cuts(self, steps: Mapping[str, Step], n_host: int | None) -> Iterator[Cut]:
        """The best cut, and the best ones without layers on the slowest devices."""
        ids, start = self._cutter.ids, self._at_start(n_host)
        slowest = sorted(ids, key=lambda device_id: -self.costs[device_id].run(0, self._cutter.n_items))
        if (cut := self._best_cut(steps, start)) is not None:
            yield cut
        for n_stores in range(1, len(ids) if any(self.parts.choices) else 0):
            homes = slowest[n_stores:]
            for order in dict.fromkeys((tuple(homes), tuple(each for each in ids if each in homes))):
                if (cut := in_order(order, steps, start)) is not None:
                    yield cut

    def _times(self, rooms: Mapping[str, int]) -> dict[str, RunTimes]:
        times: dict[str, RunTimes] = {}
        for alike in self._cutter.classes:
            room_bytes = min(rooms[device_id] for device_id in alike)
            times |= dict.fromkeys(alike, run_times(self.layout, alike[0], room_bytes, HOST))
        return times

    def _at_start(self, n_host: int | None) -> Times:
        """Seconds of the host, by number of items on it."""
        return [
            self.costs[HOST].run(0, item) if n_host is None or item == n_host else inf
            for item in range(self._cutter.n_items)
        ] + [inf]

    def _best_cut(self, steps: Mapping[str, Step], start: Times) -> Cut | None:
        """The best cut in the machine's order, or in another that is noticeably better."""
        best = in_order(self._cutter.ids, steps, start)
        if self._cutter.reorders:
            least = best.seconds * _WORTH_REORDERING if best is not None else inf
            best = in_any_order(self._cutter.classes, steps, start, self.rest, least) or best
        return best

    @cached_property
    def rest(self) -> Times:
        """rest[i]: lower bound of the time of the items from i on; every item is where it is fastest."""
        rest = [0.0]
        for item in range(self._cutter.n_items - 1, -1, -1):
            rest.append(rest[-1] + min(self._least_s(place, item) for place in self.parts.places))
        return rest[::-1]

    def _least_s(self, home: str, item: int) -> float:
        sums = self.costs[home].sums
        choices = range(len(self.parts.choices[item])) if item < self._cutter.n_items - 1 else ()
        moves = (Move(item, choice, place) for choice in choices for place in self.parts.places)
        gain = min((self.parts.seconds(home, move) for move in moves), default=0.0)
        return sums[item + 1] - sums[item] + min(gain, 0.0)

    def seconds_of(self, runs: Sequence[Run]) -> float:
        """Seconds of a step of runs and of the items before them on the host, with no part elsewhere."""
        n_host = runs[0].start if runs else self._cutter.n_items
        on_devices = sum(self.costs[run.device_id].run(run.start, run.end) for run in runs)
        return self.costs[HOST].run(0, n_host) + on_devices

    def finished(self, runs: Sequence[Run], rooms: Mapping[str, int]) -> Arrangement | None:
        """The runs with the parts elsewhere that rooms and times ask for; None if they do not fit."""
        left = {
            device_id: rooms[device_id] - self.layout.empty_bytes(device_id) for device_id in self._cutter.ids
        }
        homes: dict[int, str] = {}
        moves: list[Move] = []
        n_host = runs[0].start if runs else self._cutter.n_items
        seconds = self.costs[HOST].run(0, n_host)
        for run in runs:
            layers = range(run.start, min(run.end, self._cutter.n_items - 1))
            over = self.layout.bytes_of(*run) - rooms[run.device_id]
            losses, round_trip_bytes = self._losses[run.device_id], self._cutter.meter.round_trip_bytes
            loss = losses.least(run.start, layers.stop, over + round_trip_bytes if over > 0 else over)
            if loss is IMPOSSIBLE:
                return None
            lost = losses.moves(loss, run.start, layers.stop)
            moves += lost
            seconds += self.costs[run.device_id].run(run.start, run.end) + loss.seconds
            lost_bytes = sum(self.parts.bytes_on(run.device_id, move) for move in lost)
            left[run.device_id] = lost_bytes - over - round_trip_bytes
            homes |= dict.fromkeys(layers, run.device_id)
        return self._with_rooms_filled(Arrangement(tuple(runs), tuple(moves), seconds), homes, left)

    def _with_rooms_filled(
        self, arrangement: Arrangement, homes: Mapping[int, str], left: dict[str, int]
    ) -> Arrangement:
        """The arrangement with parts on devices that have room left instead of the host, the best first."""
        parts, seconds, moved = self.parts, arrangement.seconds, dict.fromkeys(arrangement.moves)
        gains = []
        for move in arrangement.moves:
            for device_id in self._cutter.ids:
                home, there = homes[move.layer], move._replace(place=device_id)
                n_bytes = parts.bytes_on(there.place, there)
                if device_id != home and n_bytes <= left[device_id]:
                    gain = parts.seconds(home, move) - parts.seconds(home, there)
                    gains.append((-gain / n_bytes, gain, move, there))
        for _, gain, move, there in sorted(gains):
            if gain > 0 and move in moved and parts.bytes_on(there.place, there) <= left[there.place]:
                del moved[move]
                moved[there] = None
                left[there.place] -= parts.bytes_on(there.place, there)
                seconds -= gain
        return Arrangement(arrangement.runs, tuple(sorted(moved)), seconds)

    def held(self, arrangement: Arrangement) -> dict[str, int]:
        """Bytes on each device, as rooms count them; of an idle one, those it would take with no layers."""
        held = {device_id: self.layout.empty_bytes(device_id) for device_id in self._cutter.ids}
        homes: dict[int, str] = {}
        for run in arrangement.runs:
            held[run.device_id] = self.layout.bytes_of(*run)
            homes |= dict.fromkeys(range(run.start, run.end), run.device_id)
        visited = {homes[move.layer] for move in arrangement.moves if move.layer in homes}
        for device_id in visited:
            held[device_id] += self._cutter.meter.round_trip_bytes
        for move in arrangement.moves:
            home = homes.get(move.layer, HOST)
            if home != HOST:
                held[home] -= self.parts.bytes_on(home, move)
            if move.place != HOST:
                held[move.place] += self.parts.bytes_on(move.place, move)
        return held

    def placement(self, arrangement: Arrangement) -> Placement:
        """The placement of an arrangement."""
        moved: dict[tuple[LayerPart, str], list[int]] = defaultdict(list)
        for layer, choice, place in arrangement.moves:
            moved[self.parts.choices[layer][choice].part, place].append(layer)
        overrides = overrides_of(moved, (HOST, *self._cutter.ids))
        return self._cutter.placement(list(arrangement.runs), self._overrides or overrides)


def _on_host(arrangement: Arrangement) -> bool:
    """Whether whole layers are on the host."""
    return not arrangement.runs or arrangement.runs[0].start > 0
