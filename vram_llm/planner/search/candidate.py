"""A placement that a search has found, and the times by which placements are compared."""

from dataclasses import dataclass

from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.disk.read_times import with_disk
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.memory.analytic_meter import AnalyticMeter, is_pipelined
from vram_llm.planner.speed import Predictor
from vram_llm.planner.tensor_speed import TensorPredictor
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import HOST, Alternative, Context, Placement, Plan, SpeedEstimate, Workload


@dataclass(frozen=True, slots=True)
class Candidate:
    """A placement in a context, and its memory estimate."""

    context: Context
    placement: Placement
    estimate: Estimate


def expected_speed(
    profile: ModelProfile, machine: Machine, workload: Workload, candidate: Candidate | Alternative | Plan
) -> SpeedEstimate:
    """The predicted speed of a placement."""
    context, placement = candidate.context, candidate.placement
    if placement.split_mode is SplitMode.TENSOR:
        return TensorPredictor(profile, context, machine, workload)(placement, candidate.estimate)
    pipelined = is_pipelined(profile, context, machine.devices, placement)
    speed = Predictor(profile, context, machine, workload)(placement, pipelined=pipelined)
    return with_disk(speed, profile, placement, context, machine)


def objective_seconds(
    profile: ModelProfile, machine: Machine, workload: Workload, candidate: Candidate
) -> float:
    """The time that the workload's objective minimises."""
    context, placement = candidate.context, candidate.placement
    pipelined = is_pipelined(profile, context, machine.devices, placement)
    predictor = Predictor(profile, context, machine, workload)
    return predictor.objective_seconds(placement, workload.objective, pipelined=pipelined)


def request_seconds(predictor: Predictor, placement: Placement, *, pipelined: bool) -> float:
    """The time of a typical request: the expected prompt, and answer."""
    speed = predictor(placement, pipelined=pipelined)
    assert speed.prompt_s is not None
    return speed.prompt_s + Workload.DEFAULT_ANSWER * speed.step_s


def uses_host(profile: ModelProfile, placement: Placement) -> bool:
    """Whether weights are on the host that could be on a device."""
    on_host = placement.n_gpu_layers <= profile.n_layers
    return on_host or any(override.device == HOST for override in placement.overrides)


def analytic(profile: ModelProfile, machine: Machine, workload: Workload, context: Context) -> AnalyticMeter:
    """The analytic meter for a workload."""
    return AnalyticMeter(profile, context, machine.devices, machine.host, workload.reserve_bytes)
