"""Measures plans: a child process loads them and runs prompts and decoding, without server or sampling."""

import statistics
from collections.abc import Callable, Sequence

from vram_llm.llama.child_process import ask
from vram_llm.llama.measure.throughput_wire import BenchTest, RoundTimes, ThroughputRequest
from vram_llm.planner.measured_speed import MeasuredSpeed
from vram_llm.planner.types import Plan, SpeedEstimate

_SILENCE_S = 600.0  # a large model from a slow disk


def rates(
    plans: Sequence[Plan],
    tests: Sequence[BenchTest],
    rounds: int,
    on_progress: Callable[[float], None] = lambda _: None,
) -> list[list[tuple[float, ...]]]:
    """Tokens a second of every round, by plan and test; all plans stay loaded and take turns.

    Raises ModelRefused, BadPlan, WorkerUnreachable, NotBuilt, EngineDied.
    """
    request = ThroughputRequest(tuple(plans), tuple(tests), rounds)
    name = plans[0].model.name
    found = ask(
        "vram_llm.llama.measure.throughput_worker",
        request,
        RoundTimes,
        f"{name} was measured",
        _SILENCE_S,
        on_progress,
    )
    return [
        [tuple(test.n_tokens / s for s in seconds) for test, seconds in zip(tests, of_plan, strict=True)]
        for of_plan in found.seconds
    ]


def with_expected(
    tests: Sequence[BenchTest],
    found: Sequence[tuple[float, ...]],
    of_prompt: SpeedEstimate | None,
    of_decode: SpeedEstimate | None,
) -> tuple[MeasuredSpeed, ...]:
    """The measured rates of one plan, with the expected ones of its prompts and its decoding."""
    results = []
    for test, rounds in zip(tests, found, strict=True):
        estimate, expected, basis = of_prompt if test.prompt else of_decode, None, None
        if estimate is not None and test.prompt:
            expected, basis = estimate.prompt_tokens_per_s, estimate.prompt_basis
        elif estimate is not None and test.streams == 1:
            expected, basis = estimate.tokens_per_s, estimate.basis
        elif estimate is not None:
            expected, basis = estimate.streams_tokens_per_s, estimate.streams_basis
        results.append(
            MeasuredSpeed(
                test=test.name,
                rounds_tokens_per_s=rounds,
                tokens_per_s=statistics.median(rounds),
                expected_tokens_per_s=expected,
                basis=basis,
            )
        )
    return tuple(results)
