"""The things that are given up after memory ran out, in their order."""

from dataclasses import replace

import pytest

from tests.planner.saved import CONTEXT, local, saved_plan
from vram_llm.planner.smaller_plan import (
    PlanReductions,
    given_up,
    next_reductions,
    plan_with,
    with_smaller_spare,
    workload_with,
)
from vram_llm.planner.types import HOST, Plan, Serving, Workload
from vram_llm.units import GIB, MIB

CARD = local(0)
PLAN = saved_plan([CARD], [8], context=replace(CONTEXT, n_ctx=8192, n_ubatch=512, parallel=4))


def ladder(plan: Plan, short: str | None, *, can_move: bool) -> list[PlanReductions]:
    """All that is given up, step by step, as context and micro-batch are those of each next plan."""
    reductions, steps = PlanReductions(), []
    while (after := next_reductions(plan, reductions, short, can_move=can_move)) is not None:
        reductions, plan = after, plan_with(plan, after)
        steps.append(reductions)
    return steps


def test_context_then_micro_batch_then_room_on_the_devices() -> None:
    steps = ladder(PLAN, "GPU0", can_move=True)
    assert [(step.n_ctx, step.n_ubatch, step.spare_bytes // MIB) for step in steps] == [
        (4096, None, 0),
        (2048, None, 0),
        (2048, 256, 0),
        (2048, 128, 0),
        (2048, 128, 512),
        (2048, 128, 1024),
        (2048, 128, 2048),
        (2048, 128, 4096),
    ]
    assert ladder(PLAN, "GPU0", can_move=False) == steps[:4]


def test_the_steps_back_from_the_room_on_the_devices() -> None:
    reductions, steps = PlanReductions(n_ctx=2048, spare_bytes=4096 * MIB), []
    while reductions.spare_bytes:
        reductions = with_smaller_spare(reductions)
        steps.append(reductions.spare_bytes // MIB)
    assert (steps, reductions) == ([2048, 1024, 512, 0], PlanReductions(n_ctx=2048))


def test_the_host_first_gives_up_idle_conversations_and_gets_no_layers() -> None:
    plan = replace(PLAN, serving=Serving(slots_ram_bytes=GIB))
    steps = ladder(plan, HOST, can_move=True)
    assert steps[0] == PlanReductions(no_slots_ram=True, short=HOST)
    assert (steps[-1].n_ctx, steps[-1].n_ubatch, steps[-1].spare_bytes) == (2048, 128, 0)


def test_every_sequence_keeps_some_cells() -> None:
    context = replace(CONTEXT, n_ctx=8192, parallel=16)
    assert [
        step.n_ctx for step in ladder(saved_plan([CARD], [8], context=context), None, can_move=False)
    ] == [4096] * 3


@pytest.mark.parametrize("largest", [True, False])
def test_the_workload_of_the_next_plan(largest: bool) -> None:
    reductions = PlanReductions(
        n_ctx=4096, n_ubatch=256, spare_bytes=512 * MIB, no_slots_ram=True, short="GPU0"
    )
    workload = workload_with(Workload(largest_ctx=largest, reserve_bytes=GIB), reductions)
    assert (workload.n_ctx, workload.n_ubatch, workload.largest_ctx) == (4096, 256, False)
    assert (workload.reserve_bytes, workload.serving.slots_ram_bytes) == (GIB + 512 * MIB, 0)
    assert workload_with(Workload(), PlanReductions()) == Workload()


def test_what_was_given_up_in_words() -> None:
    before = replace(PLAN, serving=Serving(slots_ram_bytes=2 * GIB))
    after = plan_with(before, PlanReductions(n_ctx=2048, n_ubatch=128, no_slots_ram=True))
    assert given_up(before, after) == (
        "no host memory for idle conversations instead of 2.00 GiB",
        "2,048 tokens of context instead of 8,192",
        "micro-batches of 128 tokens instead of 512",
    )
    moved = replace(before, placement=replace(before.placement, cpu_layers=3))
    assert given_up(before, moved) == ("3 more layers on the host",)
