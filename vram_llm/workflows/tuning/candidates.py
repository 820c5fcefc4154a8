"""Candidates of `tune`: planned to the byte before they are loaded, then measured."""

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vram_llm.errors import BadPlan, BadSplit, DoesNotFit, EngineDied, ModelRefused, NotBuilt
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.tuning.choice import TunedChoice, choice_of, workload_of
from vram_llm.planner.tuning.facts import TuneFacts, placed
from vram_llm.planner.tuning.proposals import split_name
from vram_llm.planner.tuning.scores import MeasuredTimes, RequestShape, noise
from vram_llm.planner.types import CompanionKind
from vram_llm.workflows import planning
from vram_llm.workflows.tuning.results import TuneRow

if TYPE_CHECKING:
    from vram_llm.llama.dryrun.client import DryRun
    from vram_llm.model.header import Header
    from vram_llm.planner.types import Plan


@dataclass(slots=True, eq=False)
class TuneCandidate:
    """A plan that is measured, and all that is known of it."""

    name: str
    choice: TunedChoice
    plan: "Plan"
    measured: list[MeasuredTimes] = field(default_factory=list)
    relative: list[float] = field(default_factory=list)  # to the choice's time in the same pass
    n_drafted: int = 0  # tokens in all measurements, by a draft model or head
    n_accepted: int = 0
    failed: str | None = None

    @property
    def loaded(self) -> tuple[object, ...]:
        """Equal for candidates that llama.cpp loads alike."""
        plan = self.plan
        drafting = [each.path for each in plan.companions if each.kind is CompanionKind.DRAFT]
        if plan.placement.split_mode is SplitMode.TENSOR:  # other shares may be rounded to the same rows
            uses = tuple((use.id, use.weights_bytes, use.context_bytes) for use in plan.estimate.devices)
            return uses, plan.context, *drafting
        return plan.placement, plan.context, *drafting

    @property
    def step_s(self) -> float:
        """The median time in which each stream gets a token."""
        return statistics.median(each.step_s for each in self.measured)

    def median(self, shape: RequestShape) -> float:
        """The median time of a typical request."""
        return statistics.median(map(shape.seconds, self.measured))

    def row(self, shape: RequestShape, *, is_choice: bool, is_winner: bool = False) -> TuneRow:
        """The candidate as it is shown."""
        speed = self.plan.speed
        expected = None if speed is None else speed.tokens_per_s
        if speed is not None and shape.streams > 1:
            expected = speed.streams_tokens_per_s
        row = TuneRow(
            name=self.name,
            is_predictions_choice=is_choice,
            is_winner=is_winner,
            expected_tokens_per_s=expected,
            n_measurements=len(self.measured),
            failed=self.failed,
        )
        if not self.measured:
            return row
        return TuneRow(
            name=self.name,
            is_predictions_choice=is_choice,
            is_winner=is_winner,
            expected_tokens_per_s=expected,
            tokens_per_s=shape.streams / self.step_s,
            prompt_tokens_per_s=1 / statistics.median(each.prompt_token_s for each in self.measured),
            request_s=self.median(shape),
            ratio=1 / statistics.median(self.relative) - 1 if self.relative else None,
            noise=noise([shape.seconds(each) for each in self.measured]),
            n_measurements=len(self.measured),
            accepted=self.n_accepted / self.n_drafted if self.n_drafted else None,
            failed=self.failed,
        )


@dataclass(slots=True)
class CandidatePlanner:
    """Plans candidates by llama.cpp's dry run; one that does not fit, or is known already, is left out."""

    model: str
    facts: TuneFacts
    header: "Header"
    dry: "DryRun"
    _seen: set[tuple[object, ...]] = field(default_factory=set)
    _tried: set[tuple[object, ...]] = field(default_factory=set)

    def first(self, plan: "Plan") -> TuneCandidate:
        """The prediction's own choice."""
        found = TuneCandidate(split_name(plan.placement), choice_of(plan.placement, plan.context), plan)
        self._seen.add(found.loaded)
        self._tried.add((plan.placement, plan.context, found.choice.draft))
        return found

    def candidate(self, name: str, choice: TunedChoice) -> TuneCandidate | None:
        """The candidate of a choice; None if it does not fit within the budgets, or is known already."""
        facts = self.facts
        machine, workload = facts.machine, facts.workload
        try:
            context, placement = placed(facts, choice)
            if (placement, context, choice.draft) in self._tried:
                return None
            self._tried.add((placement, context, choice.draft))
            meter = self.dry.meter(
                self.header, context, machine.devices, machine.host, workload.reserve_bytes
            )
            if not meter(placement).fits:  # a refusal of `plan` looks for changes that fit, and takes longer
                return None
            wish = workload_of(workload, choice, context.n_ctx)
            plan = planning.plan(self.model, machine, wish, self.dry, compares=False)
        except (DoesNotFit, BadPlan, BadSplit, ModelRefused, EngineDied, NotBuilt):
            return None
        found = TuneCandidate(name, choice, plan)
        if found.loaded in self._seen or plan.estimate.method == "analytic":
            return None  # without a dry run nobody knows that it fits
        self._seen.add(found.loaded)
        return found
