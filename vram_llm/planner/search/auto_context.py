"""The context of a plan whose workload does not set one: the longest context that costs almost no speed.

The plan with 8k tokens (Workload.DEFAULT_N_CTX) is the reference. The planner chooses a longer context, up to
the trained length, if it costs at most 5 % of the tokens per second. It puts weights on the host only if the
reference has some there. Both speeds are predicted at the same depth, because attention over more tokens is
slower in every plan. A context costs speed if it needs another card, or moves layers to a slower card or
experts to the host. Unknown speeds are assumed. Contexts are multiples of 8k or the trained length. If 8k
does not fit, the planner chooses the longest multiple of 1k that fits. If most layers are on the host, most
of the context is too, and it stays at 8k.

The analytic meter finds the context. The exact meter confirms it and the next longer one. The plan lists the
cost of other contexts as ContextPrice. The longest context and the one with q8_0 come from the analytic
meter, which overestimates memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import CTX_STEP, can_quantize_cache, resolve_context
from vram_llm.planner.context_price import ContextPrice
from vram_llm.planner.memory.analytic_meter import is_pipelined
from vram_llm.planner.placed_parts import on_host
from vram_llm.planner.search.candidate import Candidate, analytic, expected_speed, uses_host
from vram_llm.planner.search.largest_context import last_holding
from vram_llm.planner.search.prompt_choice import choose_prompts
from vram_llm.planner.search.search import choose_placement, plan_placement
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import MeterFor, Workload

STEP = Workload.DEFAULT_N_CTX
FINE_STEP = 1024
MAX_COST = 0.05  # of the tokens per second
_NOTICEABLE = 0.005  # smaller differences of speed are not reported

Allows = Callable[[Candidate], bool]


def plan_auto_context(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None = None
) -> tuple[Candidate, tuple[ContextPrice, ...]]:
    """The plan with a context chosen by the planner, and the costs of other contexts.

    If none fits, it is the plan that is least over its budgets. Raises BadSplit, BadPlan.
    """
    reference = plan_placement(profile, machine, workload, exact)
    trained = max(profile.context_length // CTX_STEP * CTX_STEP, CTX_STEP)
    placement = reference.placement
    is_on_host = 2 * placement.cpu_layers > profile.n_layers or placement.n_gpu_layers == 0
    if not reference.estimate.fits or is_on_host or reference.context.n_ctx >= trained:
        chosen = reference
        if not reference.estimate.fits:
            chosen = _shorter(profile, machine, workload, exact, reference)
        return choose_prompts(profile, machine, workload, chosen, exact), ()
    plans = _ContextPlans(profile, machine, workload, exact, reference)
    sizes = [n for n in range(STEP, trained, STEP) if n > reference.context.n_ctx] + [trained]
    index = plans.confirmed(sizes, plans.last(sizes, plans.is_cheap))
    chosen = reference if index < 0 else plans.at(sizes[index])
    chosen = choose_prompts(profile, machine, workload, chosen, exact)
    if chosen.context.op_offload and not workload.op_offload:  # prices are of plans with the same choice
        workload = replace(workload, op_offload=True, n_ubatch=chosen.context.n_ubatch)
        reference = plan_placement(profile, machine, workload, exact)
        plans = _ContextPlans(profile, machine, workload, exact, reference)
    return chosen, plans.prices(chosen, sizes[index + 1 :])


class _ContextPlans:
    """Plans by context and KV type. They have weights on the host only if `reference` has some there."""

    def __init__(
        self,
        profile: ModelProfile,
        machine: Machine,
        workload: Workload,
        exact: MeterFor | None,
        reference: Candidate,
    ) -> None:
        self._profile, self._machine, self._exact = profile, machine, exact
        depth = Predictor(profile, reference.context, machine, workload).depth
        self._given_workload, self._timed = workload, replace(workload, expect_depth=depth)
        self._workload = workload
        if not uses_host(profile, reference.placement):
            moves_nothing = workload.overrides is None and not reference.placement.overrides
            self._workload = replace(
                workload,
                n_gpu_layers=reference.placement.n_gpu_layers,
                overrides=() if moves_nothing else workload.overrides,
            )
        self._cache: dict[tuple[int, str | None, bool], Candidate] = {}
        self._reference = reference

    def at(self, n_ctx: int, kv_type: str | None = None, *, is_exact: bool = True) -> Candidate:
        """The plan with `n_ctx` tokens."""
        key = (n_ctx, kv_type, is_exact and self._exact is not None)
        if key not in self._cache:
            workload = replace(self._workload, n_ctx=n_ctx)
            if kv_type is not None:
                workload = replace(workload, kv_type_k=kv_type, kv_type_v=kv_type)
            exact = self._exact if is_exact else None
            self._cache[key] = plan_placement(self._profile, self._machine, workload, exact)
        return self._cache[key]

    def seconds(self, candidate: Candidate) -> float:
        """The time that the objective minimises, by which contexts are compared."""
        predictor = Predictor(self._profile, candidate.context, self._machine, self._timed)
        pipelined = is_pipelined(self._profile, candidate.context, self._machine.devices, candidate.placement)
        return predictor.objective_seconds(candidate.placement, self._workload.objective, pipelined=pipelined)

    def is_cheap(self, candidate: Candidate) -> bool:
        """Whether a plan fits and costs at most MAX_COST, compared with the reference."""
        if not candidate.estimate.fits:
            return False
        return self.seconds(self._reference) >= (1 - MAX_COST) * self.seconds(candidate)

    def last(self, sizes: Sequence[int], allows: Allows, kv_type: str | None = None) -> int:
        """The index of the longest of ascending `sizes` whose analytic plan `allows` accepts; -1 if none."""

        def is_allowed(index: int) -> bool:
            return allows(self.at(sizes[index], kv_type, is_exact=False))

        last = len(sizes) - 1
        if last < 0 or is_allowed(last):
            return last
        return last_holding(-1, last, is_allowed)

    def confirmed(self, sizes: Sequence[int], low: int) -> int:
        """The index that the exact meter confirms. `low` is the analytic meter's, which may be too low."""
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
        """Whether the context fits with the lower bound of compute; otherwise no exact measure is needed."""
        workload = replace(self._workload, n_ctx=n_ctx)
        context = resolve_context(self._profile, self._machine, workload)
        meter = analytic(self._profile, self._machine, workload, context).optimistic()
        return meter(choose_placement(self._profile, self._machine, workload, meter)).fits

    def prices(self, chosen: Candidate, longer: Sequence[int]) -> tuple[ContextPrice, ...]:
        """The costs of other contexts, compared with `chosen`; `longer` are contexts that cost too much."""
        prices = []
        reference = self._price(self._reference, chosen)
        if reference.cost < -_NOTICEABLE:
            prices.append(reference)
        if not longer:
            return tuple(prices)
        next_longer = self.at(longer[0])
        if next_longer.estimate.fits:
            prices.append(self._price(next_longer, chosen))
            sizes = range(longer[0] + FINE_STEP, longer[-1] + 1, FINE_STEP)
        else:
            sizes = range(chosen.context.n_ctx + FINE_STEP, longer[0], FINE_STEP)
        further = None if next_longer.estimate.fits else self._on_host(longer[0])
        if further is not None and not _moves_more(further, self._reference):
            prices.append(self._price(further, chosen))  # by another split: the search below would miss it
            return (*prices, *self._with_quantized_cache(chosen, longer))
        index = self.last(sizes, lambda candidate: candidate.estimate.fits)
        if index >= 0:
            longest = self._price(self.at(sizes[index], is_exact=False), chosen)
            prices.append(replace(longest, is_longest=True))
        elif next_longer.estimate.fits:
            prices[-1] = replace(prices[-1], is_longest=True)
        if further is not None:
            prices.append(self._price(further, chosen))
        return (*prices, *self._with_quantized_cache(chosen, longer))

    def _on_host(self, n_ctx: int) -> Candidate | None:
        """The plan with `n_ctx` tokens that may have more weights on the host; None if it does not fit."""
        given = self._given_workload
        if any(option is not None for option in (given.n_gpu_layers, given.tensor_split, given.overrides)):
            return None
        other = plan_placement(self._profile, self._machine, replace(given, n_ctx=n_ctx))
        return other if other.estimate.fits else None

    def _with_quantized_cache(self, chosen: Candidate, longer: Sequence[int]) -> tuple[ContextPrice, ...]:
        """The context that the same rule chooses with a q8_0 cache, if it is longer."""
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
            cpu_parts=sum(part.n_layers for part in on_host(other.placement).parts),
            cost=1 - self.seconds(chosen) / self.seconds(other),
            tokens_per_s=expected_speed(self._profile, self._machine, self._timed, other).tokens_per_s,
            method=other.estimate.method,
        )


def _moves_more(other: Candidate, reference: Candidate) -> bool:
    """Whether a plan has more layers, or parts of more layers, on the host than `reference` has."""
    ours, theirs = reference.placement, other.placement
    n_parts = [sum(part.n_layers for part in on_host(placement).parts) for placement in (ours, theirs)]
    return theirs.cpu_layers > ours.cpu_layers or n_parts[1] > n_parts[0]


def _shorter(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None, reference: Candidate
) -> Candidate:
    """The plan with the longest context below that of `reference` that fits; `reference` if none fits."""
    sizes = range(FINE_STEP, reference.context.n_ctx, FINE_STEP)
    longest = reference

    def fits(index: int) -> bool:
        nonlocal longest
        other = plan_placement(profile, machine, replace(workload, n_ctx=sizes[index]), exact)
        longest = other if other.estimate.fits else longest
        return other.estimate.fits

    last_holding(-1, len(sizes), fits)
    return longest
