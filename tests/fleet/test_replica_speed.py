"""The cost of a step from predictions and counts."""

import pytest

from tests.fleet.speeds import estimate
from vram_llm.engine.stats import EngineStats
from vram_llm.fleet.replica_choice import StepCost
from vram_llm.fleet.replica_speed import StepCostMeter, known_costs, predicted_cost
from vram_llm.planner.types import SpeedEstimate


def observed(meter: StepCostMeter, cost: StepCost, steps: list[tuple[int, int]]) -> StepCost:
    """The meter's cost after steps of a true cost: pairs of their number and the tokens of each."""
    n = n_tokens = 0
    seconds = 0.0
    for n_steps, tokens in steps:
        n, n_tokens = n + n_steps, n_tokens + n_steps * tokens
        seconds += n_steps * cost.seconds(tokens)
        meter.observe(EngineStats(n_steps=n, n_step_tokens=n_tokens, llama_s=seconds))
    assert meter.cost is not None
    return meter.cost


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (estimate(step_s=0.01, streams=5, streams_step_s=0.014), StepCost(0.009, 0.001)),
        (estimate(step_s=0.01, prompt_tokens_per_s=500), StepCost(0.008, 0.002)),
        (estimate(step_s=0.009), StepCost(0.008, 0.001)),
        (estimate(step_s=0.01, prompt_tokens_per_s=10), StepCost(0.0, 0.01)),
    ],
)
def test_prediction(speed: SpeedEstimate, expected: StepCost) -> None:
    assert predicted_cost(speed) == pytest.approx(expected)


def test_no_prediction() -> None:
    assert predicted_cost(None) is None
    assert StepCostMeter(None).cost is None


@pytest.mark.parametrize("predicted", [None, StepCost(0.001, 0.001), StepCost(1.0, 0.0)])
def test_steps_of_many_kinds_tell_both_costs(predicted: StepCost | None) -> None:
    true = StepCost(0.02, 0.003)
    steps = [(50, 1), (50, 8), (5, 64), (50, 3), (2, 256)] * 4
    assert tuple(observed(StepCostMeter(predicted), true, steps)) == pytest.approx(tuple(true), rel=0.15)


def test_like_steps_are_divided_as_predicted() -> None:
    meter = StepCostMeter(StepCost(0.03, 0.01))
    cost = observed(meter, StepCost(0.05, 0.005), [(20, 4)] * 10)
    assert cost.seconds(4) == pytest.approx(0.07, rel=0.01)
    assert cost.step_s / cost.token_s == pytest.approx(3, rel=0.01)
    assert meter.is_measured


def test_a_replica_that_becomes_slow_is_noticed() -> None:
    meter = StepCostMeter(None)
    observed(meter, StepCost(0.01, 0.001), [(1000, 4)] * 3)
    meter.restart()
    slow = observed(meter, StepCost(0.1, 0.01), [(200, 4)] * 5)
    assert slow.seconds(4) == pytest.approx(0.14, rel=0.1)


def test_no_cost_is_below_zero() -> None:
    cost = observed(StepCostMeter(None), StepCost(-0.01, 0.02), [(10, 2), (10, 8), (10, 3)])
    assert min(cost) >= 0


def measured(cost: StepCost, predicted: StepCost | None = None) -> StepCostMeter:
    meter = StepCostMeter(predicted)
    observed(meter, cost, [(100, 1), (100, 4), (10, 64)])
    return meter


def test_an_unknown_replica_is_taken_for_an_average_one() -> None:
    costs = known_costs([measured(StepCost(1.0, 0.1)), StepCostMeter(None), measured(StepCost(3.0, 0.3))])
    assert tuple(costs[1]) == pytest.approx((2.0, 0.2), rel=0.1)
    assert len(set(known_costs([StepCostMeter(None), StepCostMeter(None)]))) == 1


def test_a_prediction_is_off_as_those_of_other_replicas_are() -> None:
    """All predictions are ten times too good: the one that is not measured gets no more than its share."""
    fast, slow = StepCost(0.001, 0.0001), StepCost(0.002, 0.0002)
    costs = known_costs([measured(StepCost(0.01, 0.001), fast), StepCostMeter(slow)])
    assert costs[1].seconds(4) / costs[0].seconds(4) == pytest.approx(2, rel=0.1)
