"""The figures of pictures of a model and of its plan."""

from dataclasses import replace
from typing import TYPE_CHECKING

from vram_llm.errors import BadPlan
from vram_llm.workflows import detection

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.machine.types import Machine
    from vram_llm.planner.pictures import PlanPicture
    from vram_llm.planner.types import Plan, Workload


def plan_picture(
    model: str, machine: "Machine", workload: "Workload", plan: "Plan", dry: "DryRun | None" = None
) -> "PlanPicture":
    """The figures of `plan`, which was made of the others. Raises the errors of `analyze`, ModelRefused."""
    from vram_llm.planner import pictures
    from vram_llm.workflows.memory_floor import memory_floor

    at_its_context = replace(workload, n_ctx=plan.context.n_ctx, largest_ctx=False)
    floor = None
    if not plan.companions:
        try:
            floor = memory_floor(model, machine, at_its_context, dry)
        except BadPlan:  # the split is dictated
            floor = None
    return pictures.plan_picture(detection.analyze(model), machine, workload, plan, floor)
