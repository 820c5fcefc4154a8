"""Predicted speeds of a plan, made for a test."""

from typing import Any

from vram_llm.machine.types import Source
from vram_llm.planner.types import SpeedEstimate


def estimate(step_s: float, **figures: Any) -> SpeedEstimate:
    """A prediction of a step's time and of `figures`; the rest is unknown."""
    unknown = {
        "streams": 1, "streams_step_s": None, "streams_tokens_per_s": None, "streams_basis": None,
        "prompt_s": None, "prompt_tokens_per_s": None, "prompt_stage_s": None, "prompt_basis": None,
    }  # fmt: skip
    return SpeedEstimate(
        basis=Source.ASSUMED, depth=0, step_s=step_s, tokens_per_s=1 / step_s, prompt_tokens=512, devices=(),
        **{**unknown, **figures},
    )  # fmt: skip
