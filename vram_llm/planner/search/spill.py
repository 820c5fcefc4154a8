"""Placements with parts of layers elsewhere, for a model that the devices do not hold whole.

The search counts bytes by bounds (run_times.py). A meter measures what it finds, the difference corrects the
room of each device, and the search is repeated. If the host has too little memory, its bytes get a price.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

from vram_llm.model.profile import ModelProfile
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.arrange import Arrangement, Arranger
from vram_llm.planner.search.exhaustive import Exhaustive, is_small
from vram_llm.planner.search.min_memory_cut import Cutter, Run
from vram_llm.planner.search.movable_parts import MovableParts
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import Meter, Objective, Placement, Workload
from vram_llm.units import MIB

_ROUNDS = 4
_NOTICEABLE_BYTES = 4 * MIB  # of a correction that gives a device more room
_DEAR_S = 1e-6  # a price of a byte on the host that exceeds all gains of time
_PRICE_STEPS = 8  # of the price's logarithm
_LEAST_PRICE_S = 1e-14

Rooms = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Spilled:
    """A placement with parts elsewhere, its estimate, and the seconds of a decode step."""

    price_s: float  # of a byte on the host
    arrangement: Arrangement
    placement: Placement
    estimate: Estimate
    seconds: float
    rooms: Rooms  # corrected by the estimate

    def is_better(self, other: "Spilled | None") -> bool:
        """Whether it fits and the other does not, or is faster; if neither fits, whether less is short."""
        if other is None or self.estimate.fits != other.estimate.fits:
            return other is None or self.estimate.fits
        if not self.estimate.fits:
            return self.estimate.short_bytes < other.estimate.short_bytes
        return self.seconds < other.seconds


class SpillSearch:
    """Finds the fastest placement of one model in one context."""

    def __init__(
        self,
        profile: ModelProfile,
        workload: Workload,
        meter: AnalyticMeter,
        predictor: Predictor,
        cutter: Cutter,
    ) -> None:
        """`meter` measures without pipeline copies, which moved parts switch off."""
        self._profile, self._workload, self._meter = profile, workload, meter
        self._predictor, self._cutter = predictor, cutter
        self._arrangers: dict[float, Arranger] = {}

    @property
    def has_parts(self) -> bool:
        """Whether some parts may move."""
        return any(self._arranger(0.0).parts.choices)

    def best(
        self, n_host: int | None, *, runs: list[Run] | None = None, fills_devices: bool = False
    ) -> Spilled | None:
        """The best placement, or the one that is least over its budgets; None if no room is large enough.

        `n_host` items are on the host; None: any number. `runs` are dictated. With `fills_devices`, as few
        bytes as possible are on the host.
        """
        if fills_devices:
            return self._with_price(_DEAR_S, n_host, runs)
        found = self._with_price(0.0, n_host, runs)
        if found is None or found.estimate.host.over_bytes <= 0:
            return found
        return self._within_host(found, n_host, runs)

    def confirmed(
        self, found: Spilled, n_host: int | None, exact: Meter, *, runs: list[Run] | None = None
    ) -> Spilled:
        """`found` by an exact meter, or a better placement; the one least over its budgets if none fits."""
        return self._refined(found.price_s, n_host, runs, exact, found) or found

    def _within_host(self, found: Spilled, n_host: int | None, runs: list[Run] | None) -> Spilled:
        """The fastest placement that the host has room for, by the price of its bytes."""
        low, high = log(_LEAST_PRICE_S), log(_DEAR_S)
        best = self._with_price(_DEAR_S, n_host, runs)
        if best is None or not best.estimate.fits:
            return best if best is not None and best.is_better(found) else found
        for _ in range(_PRICE_STEPS):
            middle = (low + high) / 2
            other = self._with_price(exp(middle), n_host, runs)
            if other is not None and other.estimate.fits:
                high = middle
                best = other if other.is_better(best) else best
            else:
                low = middle
        return best

    def _with_price(self, price_s: float, n_host: int | None, runs: list[Run] | None) -> Spilled | None:
        found = self._refined(price_s, n_host, runs, self._meter)
        if runs is not None or price_s or not is_small(self._cutter):
            return found
        arranger = self._arranger(0.0)
        fits = found is not None and found.estimate.fits
        known = found.arrangement if found is not None and fits else None
        proven = Exhaustive(arranger, self._meter, n_host).improved(known)
        if proven is None or proven is known:
            return found
        return self._measured(0.0, proven, self._meter, self._meter.budgets)

    def _refined(
        self,
        price_s: float,
        n_host: int | None,
        runs: list[Run] | None,
        measure: Meter,
        first: Spilled | None = None,
    ) -> Spilled | None:
        """The best of a few rounds, with rooms corrected by `measure`. The first round may be given."""
        arranger, best = self._arranger(price_s), None
        rooms: Rooms = self._meter.budgets if first is None else first.rooms
        for number in range(_ROUNDS):
            if first is not None and number == 0:
                arrangement: Arrangement | None = first.arrangement
            else:
                arrangement = arranger.best(rooms, n_host) if runs is None else arranger.finished(runs, rooms)
            if arrangement is None:
                break
            found = self._measured(price_s, arrangement, measure, rooms)
            best = found if found.is_better(best) else best
            more = max(found.rooms[each] - rooms[each] for each in rooms)
            if found.estimate.fits and more < _NOTICEABLE_BYTES:
                break
            rooms = found.rooms
        return best

    def _measured(self, price_s: float, arrangement: Arrangement, measure: Meter, rooms: Rooms) -> Spilled:
        arranger = self._arranger(price_s)
        placement = arranger.placement(arrangement)
        estimate, held = measure(placement), arranger.held(arrangement)
        corrected = {use.id: use.budget_bytes + held[use.id] - use.total_bytes for use in estimate.devices}
        seconds = self._predictor.objective_seconds(placement, Objective.LATENCY, pipelined=False)
        return Spilled(price_s, arrangement, placement, estimate, seconds, {**rooms, **corrected})

    def _arranger(self, price_s: float) -> Arranger:
        if price_s not in self._arrangers:
            parts = MovableParts(
                self._profile, self._meter, self._predictor, self._workload.overrides, price_s
            )
            self._arrangers[price_s] = Arranger(self._cutter, parts, self._workload.overrides or ())
        return self._arrangers[price_s]
