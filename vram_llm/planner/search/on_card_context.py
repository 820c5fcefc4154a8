"""Contexts that keep all layers on the cards, for a plan with layers on the host."""

from dataclasses import replace

from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import can_quantize_cache
from vram_llm.planner.context_price import ContextPrice
from vram_llm.planner.search.auto_context import FINE_STEP
from vram_llm.planner.search.candidate import Candidate, expected_speed, uses_host
from vram_llm.planner.search.largest_context import last_holding
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import Workload


def on_card_prices(
    profile: ModelProfile, machine: Machine, workload: Workload, chosen: Candidate
) -> tuple[ContextPrice, ...]:
    """The longest contexts, up to that of `chosen`, with all layers on the cards: as planned, and with q8_0.

    The analytic meter finds them; it overestimates memory. Empty if `chosen` has all weights on the cards, or
    if the user gives the placement.
    """
    is_given = any(
        option is not None for option in (workload.tensor_split, workload.n_gpu_layers, workload.overrides)
    )
    if is_given or not machine.devices or not uses_host(profile, chosen.placement):
        return ()
    depth = Predictor(profile, chosen.context, machine, workload).depth
    on_cards = replace(workload, n_gpu_layers=profile.n_layers + 1, overrides=(), largest_ctx=False)
    timed = replace(on_cards, expect_depth=depth)

    def price(candidate: Candidate) -> ContextPrice:
        chosen_rate = expected_speed(profile, machine, timed, chosen).tokens_per_s
        rate = expected_speed(profile, machine, timed, candidate).tokens_per_s
        return ContextPrice(
            n_ctx=candidate.context.n_ctx,
            cost=1 - rate / chosen_rate,
            tokens_per_s=rate,
            method=candidate.estimate.method,
        )

    prices = []
    if (longest := _longest(profile, machine, on_cards, chosen.context.n_ctx)) is not None:
        prices.append(price(longest))
    if can_quantize_cache(profile, on_cards):
        quantized = replace(on_cards, kv_type_k="q8_0", kv_type_v="q8_0")
        if (longest := _longest(profile, machine, quantized, chosen.context.n_ctx)) is not None:
            prices.append(replace(price(longest), kv_type="q8_0"))
    return tuple(prices)


def _longest(profile: ModelProfile, machine: Machine, workload: Workload, n_ctx: int) -> Candidate | None:
    """The plan with the longest context up to `n_ctx` that fits; None if the shortest does not fit."""
    sizes = [*range(FINE_STEP, n_ctx, FINE_STEP), n_ctx]
    longest: Candidate | None = None

    def fits(index: int) -> bool:
        nonlocal longest
        other = plan_placement(profile, machine, replace(workload, n_ctx=sizes[index]))
        longest = other if other.estimate.fits else longest
        return other.estimate.fits

    if fits(0) and not fits(len(sizes) - 1):
        last_holding(0, len(sizes) - 1, fits)
    return longest
