"""Placements of whole layers, with all layers on devices or as few as possible on the host.

Of the cuts with the same number of layers on the host, the search takes the fastest one (min_latency_cut.py).
For an objective about memory, it takes the one whose fullest device is least full (min_memory_cut.py). The
analytic meter finds it, and an exact meter, if given, confirms it. The exact meter measures further
placements if a device is too full, or if the analytic meter's overestimate would refuse a placement, move
layers to the host, or leave memory of fast devices unused.
"""

from vram_llm.machine.types import Machine
from vram_llm.planner.memory.analytic_meter import AnalyticMeter
from vram_llm.planner.search.candidate import Candidate
from vram_llm.planner.search.min_latency_cut import fastest
from vram_llm.planner.search.min_memory_cut import LayerCuts
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import Meter, Objective, Placement

_MAX_TRIES = 4  # placements that the exact meter measures after one that does not fit
_MAX_REFINEMENTS = 3  # placements with more layers on the fastest devices that the exact meter measures


class WholeLayerSearch:
    """Finds placements of whole layers for one model in one context."""

    def __init__(
        self,
        machine: Machine,
        meter: AnalyticMeter,
        predictor: Predictor,
        objective: Objective,
        n_layers: int,
        *,
        reorder: bool = True,
    ) -> None:
        """With `reorder`, it searches over all orders of the devices."""
        self._machine, self._meter, self._predictor = machine, meter, predictor
        self._objective, self._n_layers, self._reorder = objective, n_layers, reorder

    def on_devices(self, n_host: int, exact: Meter | None) -> Candidate | None:
        """The best placement with the first `n_host` items on the host; None if none fits."""
        meter, found = self._meter, None
        if self._layer_cuts(meter).fits(n_host):
            found = self._measured(self._cut(meter, n_host), exact)
            for _ in range(_MAX_TRIES if exact is not None else 0):
                if found.estimate.fits:
                    break
                meter = _with_smaller_budgets(meter, found)
                found = self._measured(self._cut(meter, n_host), exact)
        if exact is not None and (found is None or not found.estimate.fits):
            optimistic = self._meter.optimistic()
            if self._layer_cuts(optimistic).fits(n_host):
                found = self._measured(self._cut(optimistic, n_host), exact)
        if found is None or not found.estimate.fits:
            return None
        return found if exact is None else self._refilled(found, n_host, exact)

    def fewest_on_host(self, exact: Meter | None) -> Candidate:
        """The placement with the fewest layers on the host; if none fits, the least bad one."""
        meter, n_items = self._meter, self._n_layers + 1
        n_host = self._fewest(meter)
        found = self._measured(self._cut(meter, n_host), exact)
        if exact is None:
            overflows = not found.estimate.fits and self._meter.devices
            return (
                self._measured(self._layer_cuts(meter).min_memory_placement(0), None) if overflows else found
            )
        least_bad = found
        for _ in range(_MAX_TRIES):
            if all(use.over_bytes <= 0 for use in found.estimate.devices):
                break
            meter = _with_smaller_budgets(meter, found)
            n_host = self._fewest(meter)
            found = self._measured(self._cut(meter, n_host), exact)
        optimistic = self._meter.optimistic()
        least = self._fewest(optimistic)
        most = n_host if found.estimate.fits else n_items + 1
        for fewer in range(least, min(most, least + _MAX_TRIES)):
            tried = self._measured(self._cut(optimistic, fewer), exact)
            if tried.estimate.fits:
                return tried
        if not found.estimate.fits:
            found = self._bisected(optimistic, found, exact)
        return found if found.estimate.fits else least_bad

    def least_bad(self, n_host: int, exact: Meter | None) -> Candidate:
        """The placement with the first `n_host` items on the host that is least over its budgets."""
        return self._measured(self._cut(self._meter, n_host), exact)

    def _layer_cuts(self, meter: AnalyticMeter) -> LayerCuts:
        return LayerCuts(meter, self._n_layers, reorder=self._reorder)

    def _cut(self, meter: AnalyticMeter, n_host: int) -> Placement:
        """The placement of the best cut for the objective; if nothing fits, of the best cut by memory."""
        layer_cuts = self._layer_cuts(meter)
        if self._objective in (Objective.LATENCY, Objective.THROUGHPUT):
            runs = fastest(layer_cuts, self._predictor, n_host, self._objective)
            if runs is not None:
                return layer_cuts.placement(runs)
        return layer_cuts.min_memory_placement(n_host)

    def _measured(self, placement: Placement, exact: Meter | None) -> Candidate:
        measure = self._meter if exact is None else exact
        return Candidate(self._meter.context, placement, measure(placement))

    def _fewest(self, meter: AnalyticMeter) -> int:
        """The smallest number of items on the host with which the other items fit the devices."""
        layer_cuts = self._layer_cuts(meter)
        if layer_cuts.fits(0):
            return 0
        low, high = 1, self._n_layers + 1
        while low < high:
            middle = (low + high) // 2
            if layer_cuts.fits(middle):
                high = middle
            else:
                low = middle + 1
        return low

    def _bisected(self, meter: AnalyticMeter, found: Candidate, exact: Meter) -> Candidate:
        """The candidate with the fewest layers on the host that fits by the exact meter."""
        low, high = 0, self._n_layers + 1
        while low < high:
            middle = (low + high) // 2
            tried = self._measured(self._cut(meter, middle), exact)
            if tried.estimate.fits:
                high, found = middle, tried
            else:
                low = middle + 1
        return found

    def _refilled(self, found: Candidate, n_host: int, exact: Meter) -> Candidate:
        """`found`, or a placement with more layers on fast devices if the meter overestimates their use."""
        if not self._reorder or self._objective not in (Objective.LATENCY, Objective.THROUGHPUT):
            return found
        measured = found
        for _ in range(_MAX_REFINEMENTS):
            relaxed = self._meter.with_budgets(self._relaxed_budgets(measured))
            placement = self._cut(relaxed, n_host)
            if placement == measured.placement:
                break
            measured = self._measured(placement, exact)
            if measured.estimate.fits:
                found = measured
        return found

    def _relaxed_budgets(self, measured: Candidate) -> dict[str, int]:
        """The budgets plus the analytic meter's overestimate of `measured`; equal for equal devices."""
        budgets = self._meter.budgets
        bounds = {use.id: use.total_bytes for use in self._meter(measured.placement).devices}
        overestimates = {use.id: bounds[use.id] - use.total_bytes for use in measured.estimate.devices}
        kinds = {
            device.id: (device.name, budgets[device.id], device.speed) for device in self._machine.devices
        }
        least: dict[object, int] = {}
        for device_id, n_bytes in overestimates.items():
            kind = kinds[device_id]
            least[kind] = min(least.get(kind, n_bytes), n_bytes)
        return {
            device_id: max(budget + least.get(kinds[device_id], 0), 0)
            for device_id, budget in budgets.items()
        }


def _with_smaller_budgets(meter: AnalyticMeter, found: Candidate) -> AnalyticMeter:
    """`meter` with smaller budgets: by the bytes that `found` is over on its fullest device."""
    over_bytes = max((use.over_bytes for use in found.estimate.devices), default=0)
    return meter.with_budgets(
        {device_id: max(budget - over_bytes, 0) for device_id, budget in meter.budgets.items()}
    )
