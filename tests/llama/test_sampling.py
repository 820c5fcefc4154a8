"""The sampler chain on a real row of logits: reproducible, and doing to it what each option says."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vram_llm.engine.request import SamplingParams
from vram_llm.engine.sampling.sampler_chains import host_chain
from vram_llm.llama.model import LoadedModel

Logits = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def row(model: LoadedModel) -> int:
    """The row of the last token of a prompt that has been decoded."""
    model.batch.clear()
    row = model.batch.add([1, 77, 300, 12], 0, 0, n_outputs=1)
    assert model.decode() == 0
    return row


@pytest.fixture(scope="module")
def logits(model: LoadedModel, row: int) -> Logits:
    return model.logits(row).copy()


class Draw:
    """Draws `n` tokens with the options given, by a new chain each time."""

    def __init__(self, model: LoadedModel, row: int) -> None:
        self._model, self._row = model, row

    def __call__(self, n: int, **options: Any) -> list[int]:
        chain = host_chain(self._model.vocab, SamplingParams(**options), self._model.n_ctx, None, [])
        try:
            return [chain.sample(self._model.ctx, self._row) for _ in range(n)]
        finally:
            chain.close()


@pytest.fixture
def draw(model: LoadedModel, row: int) -> Draw:
    return Draw(model, row)


SEEDS = [0, 1, 42, -1, 2**31, 2**32 - 2, 2**32 - 1, 2**32, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_draws_the_same_again(draw: Draw, seed: int) -> None:
    assert draw(40, seed=seed) == draw(40, seed=seed)


def test_seeds_draw_differently(draw: Draw) -> None:
    assert len({tuple(draw(40, seed=seed)) for seed in range(20)}) == 20


def test_without_a_seed_every_chain_draws_its_own(draw: Draw) -> None:
    assert len({tuple(draw(40)) for _ in range(5)}) == 5


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "top_p": 0.1, "top_k": 5, "seed": 3},
        {"temperature": 1e-6},
        {"temperature": 1e-30},
        {"temperature": 1e-40},  # below what float32 divides by
        {"top_k": 1},
        {"top_k": 1, "temperature": 2},
        {"top_p": 0},
        {"top_p": 1e-6},
        {"min_p": 1},
    ],
    ids=str,
)
def test_the_best_token_and_no_other(draw: Draw, logits: Logits, options: dict[str, Any]) -> None:
    assert set(draw(30, **options)) == {int(logits.argmax())}


def _probabilities(logits: Logits, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    scaled = logits.astype(np.float64) / temperature
    shares = np.exp(scaled - scaled.max())
    return np.asarray(shares / shares.sum(), np.float64)


@pytest.mark.parametrize("k", [2, 7, 319, 320, 5000])
def test_top_k_keeps_the_k_best(draw: Draw, logits: Logits, k: int) -> None:
    best = set(np.argsort(-logits)[:k].tolist())
    drawn = set(draw(2000, top_k=k, temperature=3, seed=5))
    assert drawn <= best
    assert len(drawn) >= min(k, 100)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_top_p_keeps_the_best_that_make_up_p(draw: Draw, logits: Logits, p: float) -> None:
    order = np.argsort(-logits)
    n_kept = int(np.searchsorted(np.cumsum(_probabilities(logits)[order]), p)) + 1
    drawn = set(draw(3000, top_p=p, seed=6))
    assert drawn <= set(order[:n_kept].tolist())
    assert len(drawn) > 0.7 * n_kept


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_min_p_keeps_what_is_near_the_best(draw: Draw, logits: Logits, p: float) -> None:
    shares = _probabilities(logits)
    kept = set(np.flatnonzero(shares >= p * shares.max()).tolist())
    drawn = set(draw(3000, min_p=p, seed=7))
    assert drawn <= kept
    assert len(drawn) > 0.7 * len(kept)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_shares_follow_the_temperature(draw: Draw, logits: Logits, temperature: float) -> None:
    n = 20_000
    counts = Counter(draw(n, temperature=temperature, seed=8))
    wanted = _probabilities(logits, temperature)
    drawn = np.array([counts[token] for token in range(len(logits))]) / n
    spread = np.sqrt(wanted * (1 - wanted) / n)
    assert np.all(np.abs(drawn - wanted) < 6 * spread + 1e-4)


def test_bias_bans(draw: Draw, logits: Logits) -> None:
    best, second = map(int, np.argsort(-logits)[:2])
    assert set(draw(20, temperature=0, logit_bias={best: -100.0})) == {second}
    banned = dict.fromkeys(range(300), -100.0)
    assert min(draw(500, seed=1, logit_bias=banned)) >= 300


@pytest.mark.parametrize("temperature", [0, 1])
def test_bias_forces(draw: Draw, temperature: float) -> None:
    for token in (0, 5, 319):
        assert set(draw(20, temperature=temperature, logit_bias={token: 100.0})) == {token}


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": 0.7},
        {"frequency_penalty": 0.3},
        {"repeat_penalty": 1.3},
        {"repeat_penalty": 0.8, "frequency_penalty": 0.5},
        {"presence_penalty": -0.5},
        {
            "presence_penalty": 1.1,
            "frequency_penalty": 0.2,
            "repeat_penalty": 1.1,
            "logit_bias": {50: 2.0, 7: -3.0},
        },
    ],
    ids=str,
)
def test_penalties_at_temperature_0(draw: Draw, logits: Logits, options: dict[str, Any]) -> None:
    """Token for token what the definition gives: repeat first, then frequency and presence."""
    n = 60
    assert draw(n, temperature=0, **options) == _penalised(logits, n, **options)


def _penalised(
    logits: Logits,
    n: int,
    presence_penalty: float = 0,
    frequency_penalty: float = 0,
    repeat_penalty: float = 1,
    logit_bias: dict[int, float] | None = None,
) -> list[int]:
    biased = logits.astype(np.float64)
    for token, bias in (logit_bias or {}).items():
        biased[token] += bias
    counts = np.zeros(len(logits))
    tokens = []
    for _ in range(n):
        now = biased.copy()
        seen = counts > 0
        now[seen] = np.where(now > 0, now / repeat_penalty, now * repeat_penalty)[seen]
        now -= counts * frequency_penalty + seen * presence_penalty
        tokens.append(int(now.argmax()))
        counts[tokens[-1]] += 1
    return tokens


def test_penalties_reproduce_with_a_seed(draw: Draw) -> None:
    options = {"presence_penalty": 1.5, "frequency_penalty": 0.4, "top_k": 40, "seed": 12}
    assert draw(200, **options) == draw(200, **options)
