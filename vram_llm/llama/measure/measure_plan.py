"""Measure a plan for `tune`: a crash of the child process costs one measurement."""

import statistics
from collections.abc import Callable

from vram_llm.llama.child_process import ask
from vram_llm.llama.measure.measure_plan_wire import PlanMeasurement, PlanMeasurementRequest

_SILENCE_S = 120.0  # the child reports the load's progress and each batch


def measure_plan(
    request: PlanMeasurementRequest, on_progress: Callable[[float], None] = lambda _: None
) -> PlanMeasurement:
    """The times of one measurement. Raises ModelRefused, BadPlan, WorkerUnreachable, NotBuilt, EngineDied."""
    name = request.plan.model.name
    return ask(
        "vram_llm.llama.measure.measure_plan_worker", request, PlanMeasurement, f"{name} was measured",
        _SILENCE_S, on_progress,
    )  # fmt: skip


def step_seconds(result: PlanMeasurement) -> float:
    """The time of a decode step: the lower quartile of the bursts, for other programs only add time."""
    return _lower_quartile(result.steps_s)


def prompt_token_seconds(result: PlanMeasurement) -> float:
    """The time of a token of a prompt."""
    return _lower_quartile(result.prompts_s) / max(result.prompt_tokens, 1)


def _lower_quartile(times: tuple[float, ...]) -> float:
    return statistics.quantiles(times, n=4, method="inclusive")[0] if len(times) > 1 else times[0]
