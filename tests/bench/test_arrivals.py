"""When requests are due."""

import math

import numpy as np
import pytest

from vram_llm.bench.arrivals import LoadShape, arrival_times


def gaps(burstiness: float, seed: int = 0) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    times = arrival_times(20_000, LoadShape(request_rate=50.0, burstiness=burstiness), seed)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(400.0)  # the rate is met exactly
    return np.diff(times)


def test_all_at_once() -> None:
    assert arrival_times(3, LoadShape(), 0) == [0.0] * 3


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_gaps_of_a_gamma_distribution(burstiness: float) -> None:
    """Their variation is 1 / sqrt(shape); that of a Poisson process is 1."""
    found = gaps(burstiness)
    assert found.std() / found.mean() == pytest.approx(1 / math.sqrt(burstiness), rel=0.03)


def test_even_gaps() -> None:
    assert gaps(math.inf) == pytest.approx(np.full(19_999, 0.02))


def test_a_seed_decides() -> None:
    assert (gaps(1.0, 3) == gaps(1.0, 3)).all()
    assert (gaps(1.0, 3) != gaps(1.0, 4)).any()
