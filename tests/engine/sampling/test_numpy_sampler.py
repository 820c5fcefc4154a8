"""Sampling in NumPy: the right set of tokens, each with the right frequency."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vram_llm.engine.sampling.numpy_sampler import NumpySampler, top_k_filter, top_p_filter


@given(
    arrays(np.float32, st.integers(1, 60), elements=st.integers(0, 6).map(lambda n: n / 4)),
    st.floats(0, 0.9999),
)
def test_the_nucleus_is_the_smallest_that_reaches_p(weights: np.ndarray, p: float) -> None:
    """Weights are whole quarters: many are equal, and sums are exact."""
    weights[0] += 0.25  # a sum of nothing has no shares
    kept = top_p_filter(weights, p)
    total, share = float(weights.sum()), float(weights[kept].sum())
    assert list(kept) == sorted(set(kept))
    assert len(kept) == 1 or share - float(weights[kept].min()) < p * total
    assert share >= p * total
    left = np.delete(weights, kept)
    assert not len(left) or left.max() <= weights[kept].min()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.5, 2, 6])
def test_the_nucleus_of_a_large_vocabulary(p: float, spread: float) -> None:
    logits = np.random.default_rng(3).standard_normal(50_000).astype(np.float32) * np.float32(spread)
    weights = np.exp(logits - logits.max())
    order = np.argsort(-weights)
    n = int(np.searchsorted(np.cumsum(weights[order], dtype=np.float64), p * weights.sum(dtype=np.float64)))
    assert set(top_p_filter(weights, p)) == set(order[: n + 1])


@given(
    arrays(np.float32, st.integers(2, 400), elements=st.integers(-8, 8).map(float) | st.just(-np.inf)),
    st.integers(1, 100),
)
def test_the_largest_are_found(logits: np.ndarray, k: int) -> None:
    """Few different values: many are equal."""
    k = min(k, len(logits) - 1)
    assert list(top_k_filter(logits, k)) == sorted(np.argsort(-logits, kind="stable")[:k])


@pytest.mark.parametrize("k", [1, 40, 3000])
def test_the_largest_of_a_large_vocabulary(k: int) -> None:
    logits = np.random.default_rng(3).standard_normal(50_001).astype(np.float32)
    assert list(top_k_filter(logits, k)) == sorted(np.argsort(-logits, kind="stable")[:k])


def test_a_seed_draws_the_same_again() -> None:
    logits = np.random.default_rng(1).standard_normal(500).astype(np.float32)

    def drawn(seed: int) -> list[int]:
        draw = NumpySampler(temperature=1, top_p=0.95, min_p=0, seed=seed)
        return [draw(logits) for _ in range(30)]

    assert drawn(4) == drawn(4)
    assert len({tuple(drawn(seed)) for seed in range(10)}) == 10


@pytest.mark.parametrize("last", [-np.inf, -1e30, 40.0])
def test_a_token_of_probability_0_is_never_drawn(last: float) -> None:
    logits = np.array([-np.inf, 1.0, -np.inf, 2.0, last], np.float32)
    draw = NumpySampler(temperature=1, top_p=1, min_p=0, seed=1)
    possible = {4} if last > 0 else {1, 3}
    assert {draw(logits) for _ in range(200)} == possible


def test_shares() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.04, 0.01], np.float32))
    n = 8_000

    def shares(**options: float) -> list[float]:
        draw = NumpySampler(**{"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "seed": 5, **options})  # type: ignore[arg-type]  # a dict has one type
        counts = np.bincount([draw(logits) for _ in range(n)], minlength=5)
        return [round(float(count) / n, 2) for count in counts]

    assert shares() == pytest.approx([0.5, 0.3, 0.15, 0.04, 0.01], abs=0.016)
    assert shares(top_p=0.8) == pytest.approx([0.625, 0.375, 0, 0, 0], abs=0.016)
    assert shares(top_k=2) == pytest.approx([0.625, 0.375, 0, 0, 0], abs=0.016)
    assert shares(top_k=2, top_p=0.6) == [1, 0, 0, 0, 0]  # 0.5 is more than 0.6 of 0.8
    assert shares(min_p=0.2) == pytest.approx([0.526, 0.316, 0.158, 0, 0], abs=0.016)
    halved = np.array([0.5, 0.3, 0.15, 0.04, 0.01]) ** 2
    assert shares(temperature=0.5) == pytest.approx(list(halved / halved.sum()), abs=0.016)
    assert shares(temperature=0.5, top_p=0.8, min_p=0.7) == [1, 0, 0, 0, 0]
