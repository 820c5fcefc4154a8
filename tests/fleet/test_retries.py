"""Waits between loads that fail."""

import pytest

from vram_llm.fleet.retries import retry_wait_s


@pytest.mark.parametrize(("n_failures", "wait_s"), [(1, 5), (2, 10), (6, 160), (7, 300), (100_000, 300)])
def test_the_wait_doubles_up_to_five_minutes(n_failures: int, wait_s: float) -> None:
    """Also after weeks of failures, where a float would overflow."""
    assert retry_wait_s(n_failures) == wait_s
