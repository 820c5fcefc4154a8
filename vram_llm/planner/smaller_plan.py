"""The next smaller plan after memory ran out: what is given up, in which order.

First the states of idle conversations on the host, if it is the host that ran out; then context; then tokens
of a micro-batch; then layers or experts on the devices, for which more is kept free there.
"""

from dataclasses import dataclass, replace

from vram_llm.planner.types import HOST, Context, Plan, Workload
from vram_llm.units import MIB, format_bytes

LEAST_CTX = 2048
LEAST_UBATCH = 128
FIRST_SPARE_BYTES = 512 * MIB
MOST_SPARE_BYTES = 4096 * MIB
_CELLS = 256  # llama.cpp pads the context to a multiple of it


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReductions:
    """The things that later plans give up. None, 0 and False: nothing."""

    n_ctx: int | None = None
    n_ubatch: int | None = None
    spare_bytes: int = 0  # kept free on each device and on the host, in addition to the reserve
    no_slots_ram: bool = False
    short: str | None = None  # the device that ran out last, or HOST; None: unknown


def next_reductions(
    plan: Plan, reductions: PlanReductions, short: str | None, *, can_move: bool, had_loaded: bool = True
) -> PlanReductions | None:
    """The reductions of the next plan, after `plan` with `reductions` ran out on `short`; None: no more.

    `can_move`: another placement can be planned. `had_loaded`: there may be states of idle conversations.
    """
    reductions, context = replace(reductions, short=short), plan.context
    if had_loaded and short == HOST and plan.serving.slots_ram_bytes and not reductions.no_slots_ram:
        return replace(reductions, no_slots_ram=True)
    least = max(LEAST_CTX, _CELLS * context.parallel)
    if context.pooling is None and context.n_ctx > least:
        return replace(reductions, n_ctx=max(least, context.n_ctx // 2 // _CELLS * _CELLS))
    if context.pooling is None and context.n_ubatch > LEAST_UBATCH:
        return replace(reductions, n_ubatch=max(LEAST_UBATCH, context.n_ubatch // 2))
    if can_move and short != HOST and reductions.spare_bytes < MOST_SPARE_BYTES:
        return replace(reductions, spare_bytes=max(FIRST_SPARE_BYTES, 2 * reductions.spare_bytes))
    return None


def with_smaller_spare(reductions: PlanReductions) -> PlanReductions:
    """`reductions` with half of the spare bytes; none before the first step."""
    n_bytes = reductions.spare_bytes // 2
    return replace(reductions, spare_bytes=n_bytes if n_bytes >= FIRST_SPARE_BYTES else 0)


def workload_with(workload: Workload, reductions: PlanReductions) -> Workload:
    """The workload for a plan with `reductions`."""
    serving = replace(workload.serving, slots_ram_bytes=0) if reductions.no_slots_ram else workload.serving
    if reductions.n_ctx is not None:
        workload = replace(workload, n_ctx=reductions.n_ctx, largest_ctx=False)
    if reductions.n_ubatch is not None:
        workload = replace(workload, n_ubatch=reductions.n_ubatch)
    return replace(workload, serving=serving, reserve_bytes=workload.reserve_bytes + reductions.spare_bytes)


def plan_with(plan: Plan, reductions: PlanReductions) -> Plan:
    """A given plan with less context and micro-batch; its estimate stays, as an upper bound."""
    context: Context = plan.context
    serving = replace(plan.serving, slots_ram_bytes=0) if reductions.no_slots_ram else plan.serving
    context = replace(
        context, n_ctx=reductions.n_ctx or context.n_ctx, n_ubatch=reductions.n_ubatch or context.n_ubatch
    )
    return replace(plan, context=context, serving=serving)


def given_up(before: Plan, after: Plan) -> tuple[str, ...]:
    """The things of which the second plan has less than the first, in phrases."""
    then, now = before.context, after.context
    slots = before.serving.slots_ram_bytes or 0
    phrases = []
    if slots and not after.serving.slots_ram_bytes:
        phrases.append(f"no host memory for idle conversations instead of {format_bytes(slots)}")
    if now.n_ctx < then.n_ctx:
        phrases.append(f"{now.n_ctx:,} tokens of context instead of {then.n_ctx:,}")
    if now.n_ubatch < then.n_ubatch:
        phrases.append(f"micro-batches of {now.n_ubatch} tokens instead of {then.n_ubatch}")
    if (more := after.placement.cpu_layers - before.placement.cpu_layers) > 0:
        phrases.append(f"{more} more layers on the host")
    if len(after.placement.overrides) > len(before.placement.overrides):
        phrases.append("more weights of layers on the host")
    return tuple(phrases)
