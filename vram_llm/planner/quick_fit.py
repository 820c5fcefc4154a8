"""Whether a model fits, the context it reaches and its speed: quick figures for lists of models.

The analytic meter computes them unless an exact meter is given; the longest context is always its figure,
which is cautious.
"""

from dataclasses import dataclass, replace

from vram_llm.machine.types import Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart, is_in_part
from vram_llm.planner.context import resolve_context
from vram_llm.planner.memory.moved_weights import moved_by_layer
from vram_llm.planner.search.candidate import Candidate, analytic, expected_speed
from vram_llm.planner.search.largest_context import last_holding
from vram_llm.planner.search.min_memory_cut import LayerCuts
from vram_llm.planner.search.search import plan_fewest_on_host, plan_placement
from vram_llm.planner.types import HOST, MeterFor, Placement, Workload

_STEP = 1024  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickFit:
    """A model on a machine. Context and speed are None if it does not fit."""

    method: str  # the meter that says whether it fits
    fits: bool
    short_bytes: int  # missing on all devices and the host together; 0 if it fits
    n_layers: int
    cpu_layers: int
    cpu_expert_layers: int  # layers whose experts alone are on the host
    cpu_ffn_layers: int  # layers with feed-forward matrices alone on the host
    is_on_cards: bool  # everything except the input embedding
    n_ctx: int | None = None  # the longest context with no more on the host
    tokens_per_s: float | None = None  # of one stream
    basis: Source | None = None


def quick_fit(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None = None
) -> QuickFit:
    """The figures of `profile` on `machine` with `workload`'s context. Raises BadPlan, BadSplit.

    With an exact meter, it raises the meter's errors too.
    """
    chosen = plan_placement(profile, machine, workload, exact)
    fits, estimate = chosen.estimate.fits, chosen.estimate
    is_free = workload.n_gpu_layers is None and workload.tensor_split is None
    if not fits and is_free and machine.devices and estimate.host.over_bytes <= 0:
        estimate = plan_fewest_on_host(profile, machine, workload, chosen.context).estimate
    placement = chosen.placement
    speed = expected_speed(profile, machine, workload, chosen) if fits else None
    return QuickFit(
        method=chosen.estimate.method,
        fits=fits,
        short_bytes=0 if fits else max(estimate.short_bytes, 1),
        n_layers=profile.n_layers,
        cpu_layers=placement.cpu_layers,
        cpu_expert_layers=_moved_layers(profile, placement, LayerPart.EXPERTS),
        cpu_ffn_layers=_moved_layers(profile, placement, LayerPart.FFN, LayerPart.FFN_DOWN),
        is_on_cards=fits and is_on_cards(placement),
        n_ctx=_longest_context(profile, machine, workload, chosen) if fits else None,
        tokens_per_s=None if speed is None else speed.tokens_per_s,
        basis=None if speed is None else speed.basis,
    )


def may_be_on_cards(profile: ModelProfile, machine: Machine, workload: Workload) -> bool:
    """Whether all layers fit the devices if compute buffers are as small as they can be."""
    if not machine.devices:
        return False
    meter = analytic(profile, machine, workload, resolve_context(profile, machine, workload)).optimistic()
    return LayerCuts(meter, profile.n_layers).fits(0)


def is_on_cards(placement: Placement) -> bool:
    """Whether a placement has nothing on the host except the input embedding."""
    moved = any(override.device == HOST for override in placement.overrides)
    return placement.output_device != HOST and not placement.cpu_layers and not moved


def _moved_layers(profile: ModelProfile, placement: Placement, *parts: LayerPart) -> int:
    """The number of layers with one of `parts` moved to the host."""
    moved = moved_by_layer(profile, placement)
    return len(
        {
            each.layer
            for each in moved
            if each.device == HOST
            and any(is_in_part(part, tensor.name) for part in parts for tensor in each.tensors)
        }
    )


def _longest_context(profile: ModelProfile, machine: Machine, workload: Workload, chosen: Candidate) -> int:
    """The longest context, up to the trained one, that needs no more on the host than `chosen`."""
    n_host = profile.n_layers + 1 - chosen.placement.n_gpu_layers

    def holds(steps: int) -> bool:
        wanted = replace(workload, n_ctx=steps * _STEP)
        meter = analytic(profile, machine, wanted, resolve_context(profile, machine, wanted))
        estimate = meter(chosen.placement)
        if estimate.host.over_bytes > 0 or estimate.fits or chosen.placement.overrides:
            return estimate.fits
        return not machine.devices or LayerCuts(meter, profile.n_layers).fits(n_host)

    longest = max(profile.context_length, chosen.context.n_ctx)
    low, high = chosen.context.n_ctx // _STEP, -(-longest // _STEP)  # low fits
    if high <= low or holds(high):
        return longest
    return max(last_holding(low, high, holds) * _STEP, chosen.context.n_ctx)
