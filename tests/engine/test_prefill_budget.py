"""Prompt rows in steps with streams, by tables of measured steps."""

import pytest

from vram_llm.engine.prefill_budget import MIN_ROWS, PrefillBudget

Step = tuple[int, int, float]  # decode rows, prompt rows, seconds


def _prefill_budget(
    *steps: Step, target_s: float = 0.1, max_rows: int = 2048, n_ubatch: int = 512
) -> PrefillBudget:
    budget = PrefillBudget(target_s, max_rows, n_ubatch)
    for step in steps:
        budget.observe(*step)
    return budget


@pytest.mark.parametrize(
    ("steps", "rows"),
    [
        ([], 56),  # with the 8 a whole tile
        ([(8, 0, 0.010)], 56),  # nothing is known of prompts
        ([(0, 500, 0.5)], 120),  # 100 rows would be on time: two tiles are not much more
        ([(8, 0, 0.010), (0, 500, 0.25)], 120),  # 180 would
        ([(8, 0, 0.010), (8, 100, 0.060)], 120),  # a mixed step tells the same
        ([(8, 0, 0.010), (0, 512, 0.0512)], 888),
        ([(8, 0, 0.050), (0, 500, 0.5)], 184),  # streams alone take half: five times that
        ([(8, 0, 0.010), (0, 10, 0.06)], 56),  # two tiles would be too late
        ([(8, 0, 0.010), (0, 10, 0.1)], 56),  # one is late, and yet the quickest way
        ([(8, 0, 0.010), (0, 10, 1.0)], MIN_ROWS),  # one row alone is late, and prompts get on
        ([(8, 0, 0.010), (0, 100, 0.001)], 2040),  # all there is room for
    ],
)
def test_rows_with_streams(steps: list[Step], rows: int) -> None:
    assert _prefill_budget(*steps).prefill_rows(8, 1) == rows


@pytest.mark.parametrize(
    ("steps", "rows"),
    [
        ([], 512),
        ([(0, 500, 0.5)], 512),  # 1,000 rows a second: one micro-batch, no two
        ([(0, 500, 0.05)], 2048),
        ([(0, 500, 0.3)], 1536),
        ([(0, 500, 50.0)], 512),
    ],
)
def test_rows_of_prompts_alone_are_micro_batches_of_about_a_second(steps: list[Step], rows: int) -> None:
    assert _prefill_budget(*steps).prefill_rows(0, 1) == rows


@pytest.mark.parametrize(("n_decode", "rows"), [(1, 127), (63, 65), (64, 128), (100, 92)])
def test_rows_fill_tiles_with_those_that_decode(n_decode: int, rows: int) -> None:
    assert _prefill_budget((n_decode, 0, 0.010), (0, 500, 0.5)).prefill_rows(n_decode, 1) == rows


@pytest.mark.parametrize(("n_prompts", "rows"), [(1, 126), (2, 126), (4, 318), (15, 958)])
def test_many_that_wait_for_a_first_token_count_as_much(n_prompts: int, rows: int) -> None:
    assert _prefill_budget((2, 0, 0.010), (0, 500, 0.25)).prefill_rows(2, n_prompts) == rows


def test_the_time_of_streams_is_measured_now_and_then() -> None:
    """Their context grows: without a measurement, its time would count as the prompts'."""
    budget, rows = _prefill_budget((8, 0, 0.010)), []
    for step in range(100):
        rows.append(budget.prefill_rows(8, 1))
        budget.observe(8, rows[-1], 0.010 * (1 + step / 10) + rows[-1] * 0.001)
    assert rows.count(0) == 5
    assert rows[-1] == 312  # streams take some 90 ms by now, and rows of 1 ms four times that


def test_it_follows_a_device_that_slows_down() -> None:
    budget = _prefill_budget((8, 0, 0.010), (8, 120, 0.070))
    before = budget.prefill_rows(8, 1)
    for _ in range(40):
        rows = budget.prefill_rows(8, 1)
        budget.observe(8, rows, 0.010 + rows * 0.004)
    assert (before, budget.prefill_rows(8, 1)) == (120, 120)


def test_only_steps_known_to_be_short_are_brief() -> None:
    assert not _prefill_budget((1, 0, 0.005)).is_brief(1)  # nothing is known of prompts
    budget = _prefill_budget((0, 100, 0.1))
    assert budget.is_brief(99)
    assert not budget.is_brief(101)
