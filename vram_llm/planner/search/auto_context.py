"""The context of a plan whose workload names none: the longest that costs next to nothing.

The plan with 8k (Workload.DEFAULT_N_CTX) is the measure. A longer context, up to what the model was trained
on, is taken while it puts no more layers on the host and costs at most 5 % of the tokens per second. Both
speeds are predicted at the same depth: attention over a longer past is slower in any plan that allows it, so
depth would be no cost of the plan. What counts is the card that has to be added, or the layers that move to a
slower one. A speed that is not
known is assumed. Contexts are multiples of 8k or the trained
length; where even 8k does not fit, the longest multiple of 1k that does. Without a layer on a device, all of
a context is the host's: 8k it stays.

The analytic meter finds the context, the exact one confirms it and the next one. What other contexts cost
belongs to the plan, as ContextPrice; the longest and the one with q8_0 are the analytic meter's, which is
cautious.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import CTX_STEP, resolve_context
from vram_llm.planner.memory.analytic import is_pipelined
from vram_llm.planner.search.search import (
    Candidate,
    analytic,
    choose_placement,
    expected_speed,
    last_holding,
    plan_placement,
)
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import ContextPrice, FlashAttention, MeterFor, Workload

STEP = Workload.DEFAULT_N_CTX
FINE_STEP = 1024
MOST_COST = 0.05  # of the tokens per second
_WORTH_SAYING = 0.005  # a smaller difference of speed is none

Allows = Callable[[Candidate], bool]


def plan_auto_context(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None = None
) -> tuple[Candidate, tuple[ContextPrice, ...]]:
    """The plan with the context that `workload` leaves open, and what other contexts would cost.

    The least bad plan where none fits. Raises BadSplit, BadPlan.
    """
    usual = plan_placement(profile, machine, workload, exact)
    trained = max(profile.context_length // CTX_STEP * CTX_STEP, CTX_STEP)
    if not usual.estimate.fits:
        return _shorter(profile, machine, workload, exact, usual), ()
    if usual.placement.n_gpu_layers == 0 or usual.context.n_ctx >= trained:
        return usual, ()
    plans = _Plans(profile, machine, workload, exact, usual)
    sizes = [n for n in range(STEP, trained, STEP) if n > usual.context.n_ctx] + [trained]
    index = plans.confirmed(sizes, plans.last(sizes, plans.is_cheap))
    chosen = usual if index < 0 else plans.at(sizes[index])
    return chosen, plans.prices(chosen, sizes[index + 1 :])


class _Plans:
    """Plans with as many layers on the host as `usual`, one for each context and KV type asked for."""

    def __init__(
        self,
        profile: ModelProfile,
        machine: Machine,
        workload: Workload,
        exact: MeterFor | None,
        usual: Candidate,
    ) -> None:
        self._profile, self._machine, self._exact = profile, machine, exact
        depth = Predictor(profile, usual.context, machine, workload).depth
        self._workload = replace(workload, expect_depth=depth)
        self._n_gpu_layers = usual.placement.n_gpu_layers
        self._made: dict[tuple[int, str | None, bool], Candidate] = {}
        self._usual = usual

    def at(self, n_ctx: int, kv_type: str | None = None, *, is_exact: bool = True) -> Candidate:
        """The plan with `n_ctx` tokens, made once."""
        key = (n_ctx, kv_type, is_exact and self._exact is not None)
        if key not in self._made:
            workload = replace(self._workload, n_ctx=n_ctx, n_gpu_layers=self._n_gpu_layers)
            if kv_type is not None:
                workload = replace(workload, kv_type_k=kv_type, kv_type_v=kv_type)
            exact = self._exact if is_exact else None
            self._made[key] = plan_placement(self._profile, self._machine, workload, exact)
        return self._made[key]

    def seconds(self, candidate: Candidate) -> float:
        """What the objective wants short, by which contexts are compared."""
        predictor = Predictor(self._profile, candidate.context, self._machine, self._workload)
        pipelined = is_pipelined(self._profile, candidate.context, self._machine.devices, candidate.placement)
        return predictor.objective_seconds(candidate.placement, self._workload.objective, pipelined=pipelined)

    def is_cheap(self, candidate: Candidate) -> bool:
        """Whether a plan may be taken in place of the usual one."""
        if not candidate.estimate.fits:
            return False
        return self.seconds(self._usual) >= (1 - MOST_COST) * self.seconds(candidate)

    def last(self, sizes: Sequence[int], allows: Allows, kv_type: str | None = None) -> int:
        """The index of the longest of ascending `sizes` that the analytic meter allows; -1 where none is."""

        def is_allowed(index: int) -> bool:
            return allows(self.at(sizes[index], kv_type, is_exact=False))

        last = len(sizes) - 1
        if last < 0 or is_allowed(last):
            return last
        return last_holding(-1, last, is_allowed)

    def confirmed(self, sizes: Sequence[int], low: int) -> int:
        """The index that the exact meter confirms; `low` is the analytic answer, which is cautious."""
        if self._exact is None:
            return low

        def is_cheap(index: int) -> bool:
            return self.is_cheap(self.at(sizes[index]))

        if low >= 0 and not is_cheap(low):
            return last_holding(-1, low, is_cheap)
        while low + 1 < len(sizes) and self._may_fit(sizes[low + 1]) and is_cheap(low + 1):
            low += 1
        return low

    def _may_fit(self, n_ctx: int) -> bool:
        """Whether the exact meter is worth asking: with compute at its lower bound the context fits."""
        workload = replace(self._workload, n_ctx=n_ctx, n_gpu_layers=self._n_gpu_layers)
        context = resolve_context(self._profile, self._machine, workload)
        meter = analytic(self._profile, self._machine, workload, context).optimistic()
        return meter(choose_placement(self._profile, self._machine, workload, meter)).fits

    def prices(self, chosen: Candidate, longer: Sequence[int]) -> tuple[ContextPrice, ...]:
        """What other contexts would cost against `chosen`; `longer` are those that were too dear."""
        prices = []
        usual = self._price(self._usual, chosen)
        if usual.cost < -_WORTH_SAYING:
            prices.append(usual)
        if not longer:
            return tuple(prices)
        after = self.at(longer[0])
        if after.estimate.fits:
            prices.append(self._price(after, chosen))
            sizes = range(longer[0] + FINE_STEP, longer[-1] + 1, FINE_STEP)
        else:
            sizes = range(chosen.context.n_ctx + FINE_STEP, longer[0], FINE_STEP)
        index = self.last(sizes, lambda candidate: candidate.estimate.fits)
        if index >= 0:
            longest = self._price(self.at(sizes[index], is_exact=False), chosen)
            prices.append(replace(longest, is_longest=True))
        elif after.estimate.fits:
            prices[-1] = replace(prices[-1], is_longest=True)
        if not after.estimate.fits and (other := self._on_host(longer[0])) is not None:
            prices.append(self._price(other, chosen))
        return (*prices, *self._with_smaller_cache(chosen, longer))

    def _on_host(self, n_ctx: int) -> Candidate | None:
        """The plan with `n_ctx` tokens that moves layers to the host, where there is one."""
        if self._workload.n_gpu_layers is not None or self._workload.tensor_split is not None:
            return None
        other = plan_placement(self._profile, self._machine, replace(self._workload, n_ctx=n_ctx))
        return other if other.estimate.fits else None

    def _with_smaller_cache(self, chosen: Candidate, longer: Sequence[int]) -> tuple[ContextPrice, ...]:
        """The context that q8_0 would allow by the same rule, where it allows more."""
        if not can_quantize_cache(self._profile, self._workload):
            return ()
        index = self.last(longer, self.is_cheap, "q8_0")
        if index < 0:
            return ()
        other = self.at(longer[index], "q8_0", is_exact=False)
        return (replace(self._price(other, chosen), kv_type="q8_0"),)

    def _price(self, other: Candidate, chosen: Candidate) -> ContextPrice:
        return ContextPrice(
            n_ctx=other.context.n_ctx,
            cpu_layers=other.placement.cpu_layers,
            cost=1 - self.seconds(chosen) / self.seconds(other),
            tokens_per_s=expected_speed(self._profile, self._machine, self._workload, other).tokens_per_s,
            method=other.estimate.method,
        )


def can_quantize_cache(profile: ModelProfile, workload: Workload) -> bool:
    """Whether q8_0 is a smaller KV cache than the one asked for, and one that llama.cpp takes."""
    is_full = (workload.kv_type_k, workload.kv_type_v) == ("f16", "f16") and profile.kv_bytes_per_token > 0
    has_blocks = not (profile.head_k % 32 or profile.head_v % 32)
    return is_full and has_blocks and workload.flash_attn is not FlashAttention.OFF


def _shorter(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None, usual: Candidate
) -> Candidate:
    """The plan with the longest context below the usual one that fits; `usual` where none does."""
    sizes = range(FINE_STEP, usual.context.n_ctx, FINE_STEP)
    longest = usual

    def fits(index: int) -> bool:
        nonlocal longest
        other = plan_placement(profile, machine, replace(workload, n_ctx=sizes[index]), exact)
        longest = other if other.estimate.fits else longest
        return other.estimate.fits

    last_holding(-1, len(sizes), fits)
    return longest
