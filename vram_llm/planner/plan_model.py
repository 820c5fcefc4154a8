"""Makes a Plan; one that reads weights from the disk if the user says so and the memory holds too little."""

from dataclasses import replace
from typing import TypeVar

from vram_llm.errors import BadPlan, DoesNotFit, Suggestion
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.disk.plan_from_disk import (
    check_can_read,
    check_speed,
    notes,
    roomy,
    settled,
    unbounded,
    with_context,
)
from vram_llm.planner.disk.resident_weights import disk_reads
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.search.candidate import Candidate, expected_speed
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.speed_notes import speed_notes
from vram_llm.planner.types import Alternative, Companion, MeterFor, Plan, Workload
from vram_llm.units import format_bytes

FLAG = "--from-disk"
_Placed = TypeVar("_Placed", Candidate, Alternative, Plan)


def plan_model(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    exact: MeterFor | None = None,
    companions: tuple[Companion, ...] = (),
    *,
    compares: bool = True,
) -> Plan:
    """Like `make_plan`, and with `workload.from_disk` also for a model that the memory does not hold.

    If it is not set, a refusal for lack of the host's memory names the flag and the speed to expect.
    """
    in_memory = replace(workload, from_disk=False)
    if not workload.from_disk:
        try:
            return make_plan(profile, machine, in_memory, exact, companions, compares=compares)
        except DoesNotFit as error:
            suggestion = _suggestion(profile, machine, workload) if error.host_is_short else None
            raise error if suggestion is None else error.with_suggestion(suggestion) from None
    if _fits(profile, machine, in_memory, exact):
        return make_plan(profile, machine, in_memory, exact, companions, compares=compares)
    check_can_read(profile, machine, workload)
    return _from_disk(profile, machine, with_context(profile, workload), exact, companions)


def _fits(profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None) -> bool:
    """Whether the memory holds the model, with the context that is asked for or the default."""
    return plan_placement(profile, machine, with_context(profile, workload), exact).estimate.fits


def _from_disk(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    exact: MeterFor | None,
    companions: tuple[Companion, ...],
) -> Plan:
    """The plan with room for all weights on the host, of which as many stay there as the memory holds."""
    large = roomy(machine)
    serving = replace(workload.serving, slots_ram_bytes=workload.serving.slots_ram_bytes or 0)
    workload = replace(workload, serving=serving, use_mmap=True)
    found = make_plan(profile, large, workload, unbounded(exact), companions)
    plan = _settled(profile, machine, workload, found)
    reads = disk_reads(profile, plan.placement, plan.context, machine)
    assert reads is not None
    speed = expected_speed(profile, machine, workload, plan)
    check_speed(profile, reads, speed)
    at_end = None
    if plan.speed_at_end is not None:
        full = replace(workload, expect_depth=plan.context.n_ctx_seq)
        at_end = expected_speed(profile, machine, full, plan)
    own = speed_notes(large, plan.placement)
    return replace(
        plan,
        host=machine.host,
        disk_reads=reads,
        speed=speed,
        speed_at_end=at_end,
        by_free_memory=None,
        alternatives=tuple(
            replace(other, speed=expected_speed(profile, machine, workload, other))
            for other in _settled_ones(profile, machine, workload, plan.alternatives)
        ),
        context_prices=(),
        notes=(
            *(note for note in plan.notes if note not in own),
            *speed_notes(machine, plan.placement),
            *notes(machine, plan.estimate, reads),
        ),
    )


def _settled(profile: ModelProfile, machine: Machine, workload: Workload, placed: _Placed) -> _Placed:
    """`placed` with as many weights in memory as there is room for. Raises DoesNotFit."""
    facts = (placed.context, placed.placement, placed.estimate)
    context, estimate = settled(profile, machine, workload, facts)
    return replace(placed, context=context, estimate=estimate)


def _settled_ones(
    profile: ModelProfile, machine: Machine, workload: Workload, others: tuple[Alternative, ...]
) -> list[Alternative]:
    """The alternatives of `others` whose context and buffers fit the memory."""
    found = []
    for other in others:
        try:
            found.append(_settled(profile, machine, workload, other))
        except DoesNotFit:
            continue
    return found


def _suggestion(profile: ModelProfile, machine: Machine, workload: Workload) -> Suggestion | None:
    """Reading from the disk as a suggestion, by the analytic meter; None if that is refused too."""
    workload = with_context(profile, replace(workload, from_disk=True))
    try:
        check_can_read(profile, machine, workload)
        found = plan_placement(profile, roomy(machine), workload)
        if not found.estimate.fits:
            return None
        found = _settled(profile, machine, workload, found)
        reads = disk_reads(profile, found.placement, found.context, machine)
        assert reads is not None
        speed = expected_speed(profile, machine, workload, found)
        check_speed(profile, reads, speed)
    except (BadPlan, DoesNotFit):
        return None
    return Suggestion(
        flags=(FLAG,),
        n_ctx=found.context.n_ctx,
        n_layers=profile.n_layers,
        cpu_layers=found.placement.cpu_layers,
        tokens_per_s=speed.tokens_per_s,
        from_disk=f"each token reads {format_bytes(reads.token_bytes)} from the disk",
    )
