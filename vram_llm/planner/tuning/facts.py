"""The facts that candidates of `tune` are made of, and where a candidate's choice puts the model."""

from dataclasses import dataclass, fields, replace

from vram_llm.errors import BadPlan
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.llama_split import device_of_layers, placement_of, tensor_placement
from vram_llm.planner.search.tensor_search import tensor_context
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.tuning.choice import TunedChoice, choice_of, workload_of
from vram_llm.planner.tuning.scores import RequestShape
from vram_llm.planner.types import Context, Placement, Plan, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneFacts:
    """The facts that proposals are made of. `plan` is the prediction's choice for `workload`.

    `by_tensors` is the planner's tensor split, and `other_draft` its plan with drafts if `plan` has none, and
    without if it has some, named by `other_draft_name`; None if the user has decided, or there is none.
    """

    profile: ModelProfile
    machine: Machine
    workload: Workload
    plan: Plan
    thread_counts: tuple[int, ...] = ()  # worth trying on the host
    kv_types: tuple[str, ...] = ()  # further ones that the user allows: the workload's own is not among them
    by_tensors: Plan | None = None
    other_draft: Plan | None = None
    other_draft_name: str | None = None  # as TunedChoice.draft

    @property
    def is_free(self) -> bool:
        """Whether the user leaves the split to the planner."""
        return self.workload.tensor_split is None and not self.workload.overrides

    @property
    def splits_layers(self) -> bool:
        """Whether the choice has whole layers on its devices, which may be split in another way."""
        return self.is_free and self.plan.placement.split_mode is SplitMode.LAYER

    @property
    def shape(self) -> RequestShape:
        """The request by which candidates are weighed."""
        speed = self.plan.speed
        assert speed is not None
        return RequestShape(
            objective=self.workload.objective,
            streams=self.workload.expect_streams,
            prompt_tokens=speed.prompt_tokens,
        )


def placed(facts: TuneFacts, choice: TunedChoice) -> tuple[Context, Placement]:
    """The context and the placement of a choice. Raises BadPlan, BadSplit."""
    plan, other = facts.plan, facts.other_draft
    wish = workload_of(facts.workload, choice, plan.context.n_ctx)
    context = plan.context
    if choice.draft != choice_of(plan.placement, context).draft:
        if other is None or choice.draft != facts.other_draft_name:
            raise BadPlan(f"no plan has the drafts {choice.draft}")
        context = other.context
    context = replace(context, **_context_fields(choice))  # type: ignore[arg-type]  # fields of Context
    places = [device.id for device in facts.machine.devices]
    placement = plan.placement
    if wish.tensor_split is not None:
        order, shares = wish.tensor_split.over(places)
        if choice.split_mode is SplitMode.TENSOR:
            placement = tensor_placement(order, [int(share) for share in shares], facts.profile.n_layers)
            return tensor_context(context), placement
        wanted = -1 if wish.n_gpu_layers is None else wish.n_gpu_layers
        assignment = device_of_layers(facts.profile.n_layers, wanted, shares)
        placement = placement_of(order, assignment, wish.overrides or ())
    elif choice.n_gpu_layers == 0:
        placement = placement_of(places, [-1] * (facts.profile.n_layers + 1))
    return context, placement


def _context_fields(choice: TunedChoice) -> dict[str, object]:
    names = {each.name for each in fields(Context)} & {each.name for each in fields(choice)}
    given = {name: getattr(choice, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}
