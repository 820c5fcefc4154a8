"""Prompt rows beside streams, by tables of what steps took."""

import pytest

from vram_llm.engine.pace import FIRST_ROWS, LEAST_ROWS, Pace

Step = tuple[int, int, float]  # decode rows, prompt rows, seconds


def _pace(*steps: Step, target_s: float = 0.1, max_rows: int = 2048, n_ubatch: int = 512) -> Pace:
    pace = Pace(target_s, max_rows, n_ubatch)
    for step in steps:
        pace.observe(*step)
    return pace


@pytest.mark.parametrize(
    ("steps", "rows"),
    [
        ([], FIRST_ROWS),
        ([(8, 0, 0.010)], FIRST_ROWS),  # nothing is known of prompts
        ([(0, 500, 0.5)], 96),  # 100 rows, less what does not make a multiple of 16
        ([(8, 0, 0.010), (0, 500, 0.5)], 80),  # 90 ms are left
        ([(8, 0, 0.010), (8, 100, 0.110)], 80),  # a mixed step tells the same
        ([(8, 0, 0.010), (0, 512, 0.0512)], 896),
        ([(8, 0, 0.050), (0, 500, 0.5)], 192),  # streams alone take half: five times that
        ([(8, 0, 0.010), (0, 10, 1.0)], LEAST_ROWS),  # one row alone is late, and prompts get on
        ([(8, 0, 0.010), (0, 100, 0.001)], 2040),  # all there is room for
    ],
)
def test_rows_beside_streams(steps: list[Step], rows: int) -> None:
    assert _pace(*steps).prefill_rows(8) == rows


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
    assert _pace(*steps).prefill_rows(0) == rows


def test_it_follows_a_device_that_slows_down() -> None:
    pace = _pace((8, 0, 0.010), (8, 90, 0.100))
    before = pace.prefill_rows(8)
    for _ in range(20):
        rows = pace.prefill_rows(8)
        pace.observe(8, rows, 0.010 + rows * 0.004)
    after = pace.prefill_rows(8)
    assert (before, after) == (80, 16)
    assert 0.010 + after * 0.004 <= 0.1


def test_steps_keep_near_the_target_as_the_context_grows() -> None:
    pace, row_s = _pace((8, 0, 0.010)), 0.0005
    seconds = []
    for _ in range(100):
        rows = pace.prefill_rows(8)
        seconds.append(0.010 + rows * row_s)
        pace.observe(8, rows, seconds[-1])
        row_s *= 1.01
    assert max(seconds[5:]) < 0.115
    assert min(seconds[5:]) > 0.07
