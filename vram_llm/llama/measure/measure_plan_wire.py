"""One measurement of `tune`: a plan is loaded, and measured for some seconds as the user will run it."""

import msgspec

from vram_llm.planner.types import Plan


class PlanMeasurementRequest(msgspec.Struct, frozen=True):
    """Measure a prompt of `prompt_tokens`, then decode steps of `streams` sequences behind `depth` tokens."""

    plan: Plan
    prompt_tokens: int
    depth: int
    streams: int
    seconds: float  # of decode steps and prompts, without loading and filling the context
    n_prompts: int = 1


class PlanMeasurement(msgspec.Struct, frozen=True, tag=True):
    """Times of one measurement. `steps_s` has the mean step of each burst."""

    load_s: float
    fill_s: float  # of everything that is not measured, without the load
    prompt_tokens: int
    prompts_s: tuple[float, ...]
    steps_s: tuple[float, ...]
