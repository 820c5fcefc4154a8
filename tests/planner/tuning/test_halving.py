"""The time of a run is shared so that all of it is used, and no round takes the next one's."""

import pytest

from vram_llm.planner.tuning.halving import (
    FINAL_SHARE,
    LEAST_MEASURING_S,
    LEAST_PAIRS,
    MOST_CANDIDATES,
    MOST_MEASURING_S,
    answer_lengths,
    n_candidates,
    n_rounds,
    pair_times,
    round_times,
    survivors,
)


@pytest.mark.parametrize(
    ("left_s", "cost_s", "expected"),
    [(300, 2.0, MOST_CANDIDATES), (60, 1.0, 10), (60, 30.0, 2), (0, 1.0, 2)],
)
def test_candidates_by_time(left_s: float, cost_s: float, expected: int) -> None:
    assert n_candidates(left_s, cost_s) == expected


@pytest.mark.parametrize("n_rivals", range(1, MOST_CANDIDATES))
def test_the_rounds_leave_one_rival(n_rivals: int) -> None:
    left = n_rivals
    for _ in range(n_rounds(n_rivals)):
        left = survivors(left)
    assert left == 1


def test_no_rival_needs_no_round() -> None:
    assert n_rounds(0) == 0


@pytest.mark.parametrize("cost_s", [0.5, 3.0])
@pytest.mark.parametrize("seconds", [120.0, 300.0, 900.0])
def test_rounds_and_pairs_fit_the_time(seconds: float, cost_s: float) -> None:
    left_s, n_rivals, spent = seconds, n_candidates(seconds, cost_s) - 1, []
    n_all = n_rounds(n_rivals)
    for number in range(n_all):
        times = round_times(left_s, n_rivals + 1, n_all - number, cost_s)
        assert LEAST_MEASURING_S <= times.seconds <= MOST_MEASURING_S
        spent.append(times.n_measurements * (times.seconds + cost_s) * (n_rivals + 1))
        left_s -= spent[-1]
        n_rivals = survivors(n_rivals)
    assert sum(spent) <= seconds * (1 - FINAL_SHARE / 2)
    pairs = pair_times(left_s, cost_s)
    assert pairs.n_measurements >= LEAST_PAIRS
    assert 2 * pairs.n_measurements * (pairs.seconds + cost_s) <= left_s * 1.01


@pytest.mark.parametrize(
    ("n_tokens", "expected"),
    [(None, (1, 16)), (3, (1, 16)), (40, (1, 40)), (64, (1, 64)), (100, (2, 50)), (5000, (12, 64))],
)
def test_answers_fill_the_time(n_tokens: float | None, expected: tuple[int, int]) -> None:
    assert answer_lengths(n_tokens) == expected


def test_later_rounds_look_longer() -> None:
    first, last = round_times(100, 12, 4, 1.0), round_times(100, 3, 2, 1.0)
    assert last.n_measurements * last.seconds > first.n_measurements * first.seconds
