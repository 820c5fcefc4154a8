"""A winner is one beyond the noise, by the request that the planner weighs."""

import pytest

from vram_llm.planner.tuning.scores import MeasuredTimes, RequestShape, gain, noise, ranked
from vram_llm.planner.types import Objective, Workload

TIMES = MeasuredTimes(step_s=0.02, prompt_token_s=0.001)


def test_a_request_is_a_prompt_and_an_answer_of_each_stream() -> None:
    one = RequestShape(objective=Objective.LATENCY, streams=1, prompt_tokens=1000)
    four = RequestShape(objective=Objective.LATENCY, streams=4, prompt_tokens=1000)
    assert one.seconds(TIMES) == pytest.approx(1 + 0.02 * Workload.DEFAULT_ANSWER)
    assert four.seconds(TIMES) == pytest.approx(4 + 0.02 * Workload.DEFAULT_ANSWER)


def test_prompts_alone_decide_for_throughput() -> None:
    shape = RequestShape(objective=Objective.THROUGHPUT, streams=1, prompt_tokens=1000)
    assert shape.seconds(TIMES) == pytest.approx(1)


def test_a_gain_beyond_the_noise_is_certain() -> None:
    found = gain([(1.06, 1.0), (1.05, 1.0), (1.07, 1.0)])
    assert found is not None
    assert found.ratio == pytest.approx(0.06)
    assert found.margin == pytest.approx(4.30 * 0.01 / 3**0.5, rel=1e-3)
    assert found.is_certain


def test_a_gain_within_the_noise_is_not() -> None:
    found = gain([(1.10, 1.0), (0.96, 1.0), (1.03, 1.0)])
    assert found is not None
    assert not found.is_certain


def test_a_machine_that_becomes_slower_harms_both_of_a_pair() -> None:
    found = gain([(1.05, 1.0), (2.1, 2.0), (4.2, 4.0)])
    assert found is not None
    assert found.ratio == pytest.approx(0.05)
    assert found.margin == pytest.approx(0, abs=1e-9)


def test_one_pair_says_nothing() -> None:
    assert gain([(2.0, 1.0)]) is None


def test_ranks_are_by_the_median_of_passes() -> None:
    assert ranked({0: [1.0, 1.0, 1.0], 1: [0.9, 0.95, 3.0], 2: [0.97, 0.98, 0.99]}) == [1, 2, 0]


def test_noise_is_half_the_range() -> None:
    assert noise([1.0, 1.1, 0.9]) == pytest.approx(0.1)
    assert noise([1.0]) is None
