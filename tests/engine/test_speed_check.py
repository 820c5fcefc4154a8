import dataclasses

import pytest

from vram_llm.engine.speed_check import TOKENS, SpeedCheck
from vram_llm.machine.types import Source
from vram_llm.planner.types import SpeedEstimate

EXPECTED = SpeedEstimate(
    basis=Source.CATALOG, depth=512, step_s=0.010, tokens_per_s=100, streams=5, streams_step_s=0.014,
    streams_tokens_per_s=5 / 0.014, streams_basis=Source.CATALOG, prompt_tokens=512,
    prompt_s=None, prompt_tokens_per_s=None, prompt_stage_s=None, prompt_basis=None, devices=(),
)  # fmt: skip


def test_it_reports_once_after_a_hundred_tokens() -> None:
    expectation = SpeedCheck(EXPECTED)
    said = [expectation.observe(1, 1, 0.010) for _ in range(2 * TOKENS)]
    assert [i for i, each in enumerate(said) if each is not None] == [TOKENS - 1]
    assert said[TOKENS - 1] == (
        "the first 100 tokens: 100.0 tok/s measured, 100.0 expected (catalog), 0% faster than expected"
    )


def test_steps_with_prompts_do_not_count() -> None:
    expectation = SpeedCheck(EXPECTED)
    assert not any(expectation.observe(*step, 9.0) for step in [(512, 1), (3, 2), (0, 0)] * TOKENS)


@pytest.mark.parametrize(("rows", "step_s"), [(1, 0.010), (3, 0.012), (5, 0.014), (9, 0.018)])
def test_several_streams_are_expected_to_take_as_long_as_planned(rows: int, step_s: float) -> None:
    expectation = SpeedCheck(EXPECTED)
    said = [expectation.observe(rows, rows, 2 * step_s) for _ in range(TOKENS)]
    (sentence,) = [each for each in said if each is not None]
    assert "50% slower than expected" in sentence
    assert "calibrate" in sentence


def test_nothing_is_reported_without_an_expectation() -> None:
    unknown = dataclasses.replace(EXPECTED, streams_step_s=None)
    assert not any(SpeedCheck(None).observe(1, 1, 0.01) for _ in range(2 * TOKENS))
    several = SpeedCheck(unknown)
    assert not any(several.observe(2, 2, 0.01) for _ in range(2 * TOKENS))
