import random

import pytest

from vram_llm.planner.logits_check import compare_logprobs

_RANDOM = random.Random(1)
EXPECTED = [_RANDOM.gauss(-7, 2) for _ in range(100)]


def test_rounding_agrees() -> None:
    check = compare_logprobs(EXPECTED, [value + _RANDOM.gauss(0, 0.01) for value in EXPECTED])
    assert check.agrees
    assert "which is rounding (100 positions)" in check.verdict


def test_one_position_in_ten_may_have_other_experts() -> None:
    assert compare_logprobs(EXPECTED, [v + (i % 10 == 3) for i, v in enumerate(EXPECTED)]).agrees
    assert not compare_logprobs(EXPECTED, [v + (i % 5 == 3) for i, v in enumerate(EXPECTED)]).agrees


def test_another_result_does_not_agree() -> None:
    check = compare_logprobs(EXPECTED, EXPECTED[::-1])
    assert not check.agrees
    assert check.verdict.endswith("rounding explains 5%: plan with --split-mode layer")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_no_number_does_not_agree(value: float) -> None:
    check = compare_logprobs(EXPECTED, [*EXPECTED[:-1], value])
    assert not check.agrees
    assert "not numbers" in check.verdict
