"""Seconds that drafts by a model's own MTP head add to a step, on one device."""

from collections.abc import Sequence

from vram_llm.model.profile import ModelProfile
from vram_llm.planner.layer_times import PlaceTimes, Weights, kernels_of
from vram_llm.planner.run_costs import RunCosts


class HeadTimes:
    """Times of a head that runs `n_runs` times a step, once for each token that it drafts.

    Each run is a step of llama.cpp: it reads the first MTP block, and the output, which the head shares with
    the model. The head's attention is left out: it is that of one layer.
    """

    def __init__(self, profile: ModelProfile, n_runs: int) -> None:
        self._block = profile.n_layers - profile.n_draft_layers
        self._n_runs = n_runs
        weights, parts = kernels_of(profile.layers)
        self._weights, self._parts = weights[self._block], parts[self._block]

    def added_to(self, costs: RunCosts, times: PlaceTimes, output: Sequence[Weights], rows: int) -> RunCosts:
        """`costs` of items on a device, with what the head's runs for `rows` streams take there."""
        block_s = times.speed.step_overhead_s.value + times.overhead_s(self._parts)
        block_s += times.rows_s(self._parts, rows) + times.decode_s(self._weights, rows)
        sums = [seconds + self._n_runs * block_s * (i > self._block) for i, seconds in enumerate(costs.sums)]
        sums[-1] += self._n_runs * times.decode_s(output, rows)
        return RunCosts(costs.fixed, sums)
