"""The planner's plans by tensors, and with or without drafts, which `tune` measures besides its choice."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vram_llm.errors import VramLLMError
from vram_llm.planner.mtp import AUTO, MTP, NO_DRAFT, mtp_refusal
from vram_llm.planner.tensor_split import SplitChoice, SplitMode
from vram_llm.planner.types import CompanionKind
from vram_llm.workflows import planning

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.machine.types import Machine
    from vram_llm.model.profile import ModelProfile
    from vram_llm.planner.types import Plan, Workload


def has_drafts(plan: "Plan") -> bool:
    """Whether a draft model or the model's own head drafts."""
    return bool(plan.context.n_mtp) or any(each.kind is CompanionKind.DRAFT for each in plan.companions)


@dataclass(frozen=True, slots=True)
class OtherPlans:
    """Plans in the context of the choice; None if the user has decided, or if there is none."""

    by_tensors: "Plan | None"
    other_draft: "Plan | None"  # with drafts if the choice has none, and without if it has some
    other_draft_name: str | None  # as TunedChoice.draft

    @classmethod
    def of(
        cls, model: str, machine: "Machine", workload: "Workload", choice: "Plan", dry: "DryRun"
    ) -> "OtherPlans":
        """The other plans for `workload`, whose draft may still be AUTO."""
        length = replace(workload, n_ctx=choice.context.n_ctx, largest_ctx=False)

        def planned(wish: "Workload") -> "Plan | None":
            try:
                plan = planning.plan(model, machine, wish, dry, compares=False)
            except VramLLMError:  # it does not fit, or llama.cpp cannot compute it
                return None
            return None if plan.estimate.method == "analytic" else plan

        by_tensors = choice if choice.placement.split_mode is SplitMode.TENSOR else None
        if by_tensors is None and _may_share_tensors(workload, choice):
            by_tensors = planned(replace(settled_draft(length, choice), split_mode=SplitChoice.TENSOR))
        name = _other_draft(
            planning.PlannedFiles.read(model, settled_draft(workload, choice)).profile, workload, choice
        )
        other = None
        if name is not None:
            mode = SplitChoice.LAYER if name == MTP else workload.split_mode
            other = planned(replace(length, draft=name, split_mode=mode))
        return cls(by_tensors, other, None if other is None else name)


def settled_draft(workload: "Workload", choice: "Plan") -> "Workload":
    """`workload` with the drafts that the planner chose in place of AUTO."""
    if workload.draft != AUTO:
        return workload
    return replace(workload, draft=MTP if choice.context.n_mtp else None)


def _may_share_tensors(workload: "Workload", choice: "Plan") -> bool:
    """Whether the user leaves the split mode, and the split, to `tune`."""
    is_open = workload.split_mode in (None, SplitChoice.AUTO) and workload.tensor_split is None
    return is_open and len(choice.devices) > 1 and not choice.context.n_mtp


def _other_draft(profile: "ModelProfile", workload: "Workload", choice: "Plan") -> str | None:
    """The draft that the choice does not have, if the user leaves it open; a draft model may be left out."""
    if workload.draft in (MTP, NO_DRAFT):
        return None
    if has_drafts(choice):
        return NO_DRAFT
    return MTP if mtp_refusal(profile) is None else None
