"""The longest context that fits."""

from collections.abc import Callable
from dataclasses import replace

from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import CTX_STEP, ctx_step
from vram_llm.planner.search.candidate import Candidate, uses_host
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.types import MeterFor, Workload

_MAX_CTX = 2**24


def plan_largest_context(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None = None
) -> tuple[Candidate, Candidate | None]:
    """The placement with the longest context that fits, and the placement with one step more, which does not.

    No weights move to the host for a longer context, unless the shortest context needs some there. Then parts
    of layers may move, but the host has only as many whole layers as the default context needs. No context is
    longer than the trained length; at that length the second placement is None. If no context fits, the first
    is the placement that is least over its budgets.
    """
    step = ctx_step(workload)
    shortest = plan_placement(profile, machine, replace(workload, n_ctx=step), exact)
    if shortest.placement.cpu_layers:
        usual = plan_placement(profile, machine, replace(workload, n_ctx=None), exact)
        shortest = usual if usual.estimate.fits else shortest
    kept = replace(workload, n_gpu_layers=shortest.placement.n_gpu_layers)
    if not uses_host(profile, shortest.placement) and workload.overrides is None:
        kept = replace(kept, overrides=())

    def at(steps: int, meter: MeterFor | None) -> Candidate:
        return plan_placement(profile, machine, replace(kept, n_ctx=steps * step), meter)

    high = max((profile.context_length or _MAX_CTX) // CTX_STEP, 1)
    if not shortest.estimate.fits:
        return shortest, None
    if (longest := at(high, exact)).estimate.fits:
        return longest, None
    low = last_holding(1, high, lambda steps: at(steps, None).estimate.fits)
    if exact is not None:
        # the analytic result is close, so the search begins there and doubles its steps
        stride = 1
        while low + stride < high and at(low + stride, exact).estimate.fits:
            low, stride = low + stride, 2 * stride
        least = low if at(low, exact).estimate.fits else 1
        low = last_holding(least, min(low + stride, high), lambda steps: at(steps, exact).estimate.fits)
    return at(low, exact), at(low + 1, exact)


def last_holding(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number in [low, high) that fits, given that `low` fits and `high` does not."""
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
