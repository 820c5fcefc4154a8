"""Measure a plan by text that its model writes: the only honest way where drafts are accepted or not.

A crash of the child process costs one measurement.
"""

from collections.abc import Callable

import msgspec

from vram_llm.llama.child_process import ask
from vram_llm.planner.types import Plan

_SILENCE_S = 120.0  # the child reports the load's progress and its steps


class GenerationRequest(msgspec.Struct, frozen=True):
    """Measure a prompt of `prompt_tokens`, then answers of `streams` sequences behind `depth` tokens each.

    Each stream writes `n_texts` answers of `n_tokens` tokens, one after the other. Plans that are compared
    get the same numbers, and with them the same prompts and seeds: tokens are drawn at a temperature of 0.7.
    """

    plan: Plan
    prompt_tokens: int
    depth: int
    streams: int
    n_texts: int
    n_tokens: int
    first_text: int  # another number, other prompts


class GenerationMeasurement(msgspec.Struct, frozen=True, tag=True):
    """Times of one measurement. `token_s`: while all streams write, until each of them has a token more."""

    load_s: float
    prompt_tokens: int
    prompt_s: float  # to the first token
    token_s: float
    n_drafted: int  # tokens, by a draft model or head
    n_accepted: int


def measure_generation(
    request: GenerationRequest, on_progress: Callable[[float], None] = lambda _: None
) -> GenerationMeasurement:
    """The times of one measurement. Raises ModelRefused, BadPlan, WorkerUnreachable, NotBuilt, EngineDied."""
    return ask(
        "vram_llm.engine.generation_speed_worker", request, GenerationMeasurement,
        f"{request.plan.model.name} was measured", _SILENCE_S, on_progress,
    )  # fmt: skip
