"""Placements with moved parts of layers, for a model that does not fit the devices as a whole.

The search counts bytes by bounds (run_times.py). A meter measures the placement that it finds, the difference
corrects the budget of each device, and the search is repeated. If the host has too little memory, its bytes
get a price.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, log

from vram_llm.model.profile import ModelProfile
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.arrangement import Arrangement, ArrangementSearch
from vram_llm.planner.search.exhaustive_search import ExhaustiveSearch, is_small
from vram_llm.planner.search.min_memory_cut import LayerCuts, LayerRange
from vram_llm.planner.search.movable_parts import MovableParts
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import Meter, Objective, Placement, Workload
from vram_llm.units import MIB

_ROUNDS = 4
_NOTICEABLE_BYTES = 4 * MIB  # of a correction that increases a device's budget
_PROHIBITIVE_PRICE_S = 1e-6  # of a byte on the host: exceeds all gains of time
_PRICE_STEPS = 8  # of the bisection of the price's logarithm
_MIN_PRICE_S = 1e-14

Budgets = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class SpilledPlacement:
    """A placement with moved parts of layers."""

    price_s: float  # of a byte on the host
    arrangement: Arrangement
    placement: Placement
    estimate: Estimate
    seconds: float  # of a decode step
    budgets: Budgets  # corrected by the estimate

    def is_better(self, other: "SpilledPlacement | None") -> bool:
        """Whether it alone fits, or both fit and it is faster, or neither fits and it lacks fewer bytes."""
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
        layer_cuts: LayerCuts,
    ) -> None:
        """`meter` is for a context without pipeline copies: overrides turn them off."""
        self._profile, self._workload, self._meter = profile, workload, meter
        self._predictor, self._layer_cuts = predictor, layer_cuts
        self._searches: dict[float, ArrangementSearch] = {}

    @property
    def has_parts(self) -> bool:
        """Whether some parts may move."""
        return any(self._search(0.0).parts.choices)

    def best(
        self,
        n_host: int | None,
        *,
        runs: list[LayerRange] | None = None,
        fills_devices: bool = False,
        most_s: float = inf,
    ) -> SpilledPlacement | None:
        """The best placement, or the one that is least over its budgets; None if the search finds none.

        `n_host` items are on the host; None: any number. `runs` are those of a split that the user gives.
        With `fills_devices`, as few bytes as possible are on the host. A placement that takes longer than
        `most_s` may be left out.
        """
        if fills_devices:
            return self._with_price(_PROHIBITIVE_PRICE_S, n_host, runs)
        found = self._with_price(0.0, n_host, runs, most_s)
        if found is None or found.estimate.host.over_bytes <= 0:
            return found
        return self._within_host(found, n_host, runs)

    def confirmed(
        self,
        found: SpilledPlacement,
        n_host: int | None,
        exact: Meter,
        *,
        runs: list[LayerRange] | None = None,
    ) -> SpilledPlacement:
        """`found` with an exact meter's estimate, or a better placement.

        If none fits, it is the placement that is least over its budgets.
        """
        return self._refined(found.price_s, n_host, runs, exact, found) or found

    def _within_host(
        self, found: SpilledPlacement, n_host: int | None, runs: list[LayerRange] | None
    ) -> SpilledPlacement:
        """The fastest placement within the host's memory; bisection finds the price of the host's bytes."""
        low, high = log(_MIN_PRICE_S), log(_PROHIBITIVE_PRICE_S)
        best = self._with_price(_PROHIBITIVE_PRICE_S, n_host, runs)
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

    def _with_price(
        self, price_s: float, n_host: int | None, runs: list[LayerRange] | None, most_s: float = inf
    ) -> SpilledPlacement | None:
        """The best placement with a price of bytes on the host, by the analytic meter."""
        found = self._refined(price_s, n_host, runs, self._meter, most_s=most_s)
        if runs is not None or price_s or not is_small(self._layer_cuts):
            return found
        search = self._search(0.0)
        fits = found is not None and found.estimate.fits
        known = found.arrangement if found is not None and fits else None
        improved = ExhaustiveSearch(search, self._meter, n_host).improved(known)
        if improved is None or improved is known:
            return found
        return self._measured(0.0, improved, self._meter, self._meter.budgets)

    def _refined(
        self,
        price_s: float,
        n_host: int | None,
        runs: list[LayerRange] | None,
        measure: Meter,
        first: SpilledPlacement | None = None,
        *,
        most_s: float = inf,
    ) -> SpilledPlacement | None:
        """The best placement of a few rounds, with budgets corrected by `measure`.

        `first` is the placement of the first round; None: the search finds it.
        """
        search, best = self._search(price_s), None
        budgets: Budgets = self._meter.budgets if first is None else first.budgets
        for number in range(_ROUNDS):
            if first is not None and number == 0:
                arrangement: Arrangement | None = first.arrangement
            else:
                arrangement = (
                    search.best(budgets, n_host, most_s) if runs is None else search.with_moves(runs, budgets)
                )
            if arrangement is None:
                break
            found = self._measured(price_s, arrangement, measure, budgets)
            best = found if found.is_better(best) else best
            increases = [found.budgets[device_id] - budgets[device_id] for device_id in budgets]
            if found.estimate.fits and max(increases) < _NOTICEABLE_BYTES:
                break
            if found.estimate.host.over_bytes > sum(max(each, 0) for each in increases):
                break  # the host stays too small, whatever the devices take from it
            budgets = found.budgets
        return best

    def _measured(
        self, price_s: float, arrangement: Arrangement, measure: Meter, budgets: Budgets
    ) -> SpilledPlacement:
        search = self._search(price_s)
        placement = search.placement(arrangement)
        estimate, counted = measure(placement), search.device_bytes(arrangement)
        corrected = {use.id: use.budget_bytes + counted[use.id] - use.total_bytes for use in estimate.devices}
        seconds = self._predictor.objective_seconds(placement, Objective.LATENCY, pipelined=False)
        return SpilledPlacement(price_s, arrangement, placement, estimate, seconds, {**budgets, **corrected})

    def _search(self, price_s: float) -> ArrangementSearch:
        if price_s not in self._searches:
            parts = MovableParts(
                self._profile, self._meter, self._predictor, self._workload.overrides, price_s
            )
            self._searches[price_s] = ArrangementSearch(
                self._layer_cuts, parts, self._workload.overrides or ()
            )
        return self._searches[price_s]
