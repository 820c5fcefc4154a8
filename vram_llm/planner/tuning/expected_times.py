"""The predicted times by which candidates of `tune` are ordered before they are measured."""

from dataclasses import replace

from vram_llm.planner.draft_speed import drafting_gain
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.memory.analytic_meter import is_pipelined
from vram_llm.planner.speed import Predictor
from vram_llm.planner.tensor_speed import TensorPredictor
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.tuning.facts import TuneFacts
from vram_llm.planner.tuning.scores import MeasuredTimes
from vram_llm.planner.types import Context, Placement, SpeedEstimate


class ExpectedTimes:
    """Predicts the time of a typical request; candidates with the same context share a predictor."""

    def __init__(self, facts: TuneFacts) -> None:
        self._facts = facts
        self._predictors: dict[Context, Predictor] = {}

    def request_s(self, context: Context, placement: Placement) -> float:
        """The predicted time of a typical request of each stream."""
        speed = self._speed(context, placement)
        assert speed.prompt_s is not None
        step_s = speed.step_s
        if self._facts.shape.streams > 1:
            step_s = speed.streams_step_s or step_s
        elif context.n_mtp:
            step_s /= self._gain(context, placement)
        return self._facts.shape.seconds(
            MeasuredTimes(step_s=step_s, prompt_token_s=speed.prompt_s / max(speed.prompt_tokens, 1))
        )

    def _gain(self, context: Context, placement: Placement) -> float:
        """Tokens per second with the head of a context, against without."""
        facts = self._facts
        plan = replace(facts.plan, context=context, placement=placement)
        return drafting_gain(facts.profile, facts.machine, facts.workload, plan)

    def _speed(self, context: Context, placement: Placement) -> SpeedEstimate:
        facts = self._facts
        if placement.split_mode is SplitMode.TENSOR:
            predictor = TensorPredictor(facts.profile, context, facts.machine, facts.workload)
            return predictor(placement, _tensor_estimate(facts, placement))
        if context not in self._predictors:
            self._predictors[context] = Predictor(facts.profile, context, facts.machine, facts.workload)
        pipelined = is_pipelined(facts.profile, context, facts.machine.devices, placement)
        return self._predictors[context](placement, pipelined=pipelined)


def _tensor_estimate(facts: TuneFacts, placement: Placement) -> Estimate:
    """The estimate of the planner's tensor split with other shares of its weights."""
    base = facts.plan if facts.by_tensors is None else facts.by_tensors
    uses = base.estimate.devices
    n_all, n_bytes = sum(placement.tensor_split), sum(use.weights_bytes for use in uses)
    shares = zip(placement.device_order, placement.tensor_split, strict=True)
    devices = (replace(uses[0], id=id, weights_bytes=n_bytes * share // n_all) for id, share in shares)
    return replace(base.estimate, devices=tuple(devices))
