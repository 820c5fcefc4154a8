"""Each method from logits to a token does what llama.cpp's samplers do, and the cheapest one is chosen."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.alike import Counts, are_alike
from tests.engine.harness import loaded
from vram_llm.engine.request import SamplingParams
from vram_llm.engine.sampling.choose_sampler import SamplerFactory, numpy_suffices
from vram_llm.engine.sampling.numpy_sampler import Indices, NumpySampler
from vram_llm.engine.sampling.sampler import Sampler
from vram_llm.engine.sampling.sampler_chains import host_chain
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.sampling import SamplerChain

N = 6000


@pytest.fixture(scope="module")
def model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    """The tiny model, after a prompt."""
    with loaded(plan_on_cpu()) as model:
        model.batch.add([1, 77, 300, 12], 0, 0, n_outputs=1)
        assert model.decode() == 0
        yield model


ROW = 3
Made = Callable[..., Sampler]


@pytest.fixture
def made(model: LoadedModel) -> Iterator[Made]:
    """Makes samplers, and closes them."""
    choosers, all_made = SamplerFactory(model), []

    def make(prompt: tuple[int, ...] = (1, 77, 300, 12), **options: Any) -> Sampler:
        all_made.append(choosers.make(SamplingParams(**options), list(prompt)))
        return all_made[-1]

    yield make
    for sampler in all_made:
        sampler.close()


def _counts(sampler: Sampler, n: int = N, allowed: Indices | None = None) -> Counts:
    return Counter(sampler.sample(ROW, allowed) for _ in range(n))


def test_the_comparison_sees_a_difference(made: Made) -> None:
    assert not are_alike(_counts(made(seed=1)), _counts(made(seed=2, temperature=0.75)))
    assert not are_alike(_counts(made(seed=1, top_p=0.9)), _counts(made(seed=2, top_p=0.8)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"top_p": 0.8},
        {"top_p": 0.3, "temperature": 1.4},
        {"min_p": 0.3},
        {"top_p": 0.9, "min_p": 0.2, "temperature": 0.8},
        {"top_k": 20},
        {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
        {"top_k": 7, "top_p": 0.7, "temperature": 1.3},
        {"top_k": 1000, "min_p": 0.3},
    ],
    ids=str,
)
def test_a_draw_in_numpy_is_llama_cpps(model: LoadedModel, made: Made, options: dict[str, Any]) -> None:
    params = SamplingParams(**options, seed=11)
    assert numpy_suffices(params)
    chain = host_chain(model.vocab, params, 512, None, [])
    theirs = Counter(chain.sample(model.ctx, ROW) for _ in range(N))
    chain.close()
    assert are_alike(_counts(made(**options, seed=5)), theirs)


@pytest.mark.parametrize("top_k", [0, 1, 2, 30, 319, 320, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.6, 0.1, 0.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.6, 1.0])
def test_the_filters_leave_what_llama_cpps_leave(
    model: LoadedModel, top_k: int, top_p: float, min_p: float
) -> None:
    logits = model.logits(ROW)
    chain = SamplerChain(len(logits))
    if top_k > 0:
        chain.top_k(top_k)
    if top_p < 1:
        chain.top_p(top_p)
    if min_p > 0:
        chain.min_p(min_p)
    chain.temperature(0.7)
    theirs = chain.filtered(logits)
    chain.close()
    places, weights = NumpySampler(temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p, seed=1).filtered(
        logits
    )
    ours = np.arange(len(logits)) if places is None else places
    assert list(ours) == sorted(theirs)
    best = max(theirs.values())
    assert np.log(weights) == pytest.approx([theirs[place] - best for place in ours], abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 50, "typical_p": 0.7},
        {"typical_p": 0.6},
        {"top_n_sigma": 1.0},
        {"logit_bias": {5: 3.0, 9: -100.0}},
        {"xtc_probability": 0.5, "xtc_threshold": 0.01},
        {"mirostat": 1, "mirostat_tau": 3.0},
        {"mirostat": 2, "mirostat_tau": 3.0},
        {"repeat_penalty": 1.2, "top_k": 40},
    ],
    ids=str,
)
def test_naming_every_token_changes_nothing(model: LoadedModel, made: Made, options: dict[str, Any]) -> None:
    """The same chain over a list of all candidates samples the same tokens."""
    every = np.arange(model.vocab.n_tokens)
    alone, listed = made(**options, seed=3), made(**options, seed=3)
    assert [alone.sample(ROW) for _ in range(200)] == [listed.sample(ROW, every) for _ in range(200)]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {},
        {"top_p": 0.9},
        {"top_k": 5},
        {"typical_p": 0.5},
        {"mirostat": 2},
        {"dry_multiplier": 1.0},
        {"temperature": 0, "presence_penalty": 1.5},
    ],
    ids=str,
)
def test_only_allowed_tokens_are_sampled(model: LoadedModel, made: Made, options: dict[str, Any]) -> None:
    allowed = np.array([4, 40, 77, 301])
    drawn = set(_counts(made(**options, seed=1), 300, allowed))
    assert drawn <= set(allowed.tolist())
    best = int(allowed[model.logits(ROW)[allowed].argmax()])
    if options == {"temperature": 0}:
        assert drawn == {best}
    assert set(_counts(made(**options), 5, np.array([40]))) == {40}


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"temperature": 0, "top_k": 3, "mirostat": 1, "xtc_probability": 1.0}]
)
def test_greedy_takes_the_best(model: LoadedModel, made: Made, options: dict[str, Any]) -> None:
    sampler = made(**options)
    assert sampler._method is None
    assert sampler.sample(ROW) == int(model.logits(ROW).argmax())


def test_a_chain_with_a_bias_of_0_takes_the_best_token_too(model: LoadedModel, made: Made) -> None:
    assert made(temperature=0, logit_bias={5: 0.0}).sample(ROW) == int(model.logits(ROW).argmax())


@pytest.mark.parametrize(("threshold", "drops"), [(0.002, True), (0.6, False)])
def test_xtc_drops_the_best(model: LoadedModel, made: Made, threshold: float, drops: bool) -> None:
    """With a probability of 1 it always drops all tokens above the threshold except the least likely."""
    best = int(model.logits(ROW).argmax())
    drawn = _counts(made(xtc_probability=1.0, xtc_threshold=threshold, seed=2))
    assert (drawn[best] == 0) is drops


def test_dry_stops_a_loop(model: LoadedModel, made: Made) -> None:
    """In the prompt, 90 follows the phrase each time; the fourth time it must not."""
    bias = {90: 30.0}
    loop = (50, 60, 70, 90) * 3 + (50, 60, 70)
    assert made(loop, temperature=0, logit_bias=bias).sample(ROW) == 90
    dry = {"dry_multiplier": 20.0, "dry_sequence_breakers": ()}
    assert made(loop, temperature=0, logit_bias=bias, **dry).sample(ROW) != 90
    assert made((50, 60, 70), temperature=0, logit_bias=bias, **dry).sample(ROW) == 90
    (breaker,) = {model.vocab.piece(70).decode()}
    broken = {**dry, "dry_sequence_breakers": (breaker,)}
    assert made(loop, temperature=0, logit_bias=bias, **broken).sample(ROW) == 90
    assert made(loop, temperature=0, logit_bias=bias, **dry, dry_penalty_last_n=3).sample(ROW) == 90


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_keeps_surprise_near_its_target(model: LoadedModel, made: Made, version: int) -> None:
    logits = model.logits(ROW).astype(np.float64)
    bits = -(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())) / np.log(2)
    surprise = [
        np.mean([bits[made_by.sample(ROW)] for _ in range(2000)])
        for made_by in (made(mirostat=version, mirostat_tau=tau, seed=3) for tau in (2.5, 5.0))
    ]
    assert surprise[0] < surprise[1]
    assert surprise[1] < np.mean([bits[token] for token in _counts(made(seed=1)).elements()]) + 0.1


def test_penalties_look_back_last_n_tokens(made: Made) -> None:
    near = made(temperature=0, presence_penalty=2.0, logit_bias={5: 30.0, 6: 29.0}, repeat_last_n=1)
    assert [near.sample(ROW) for _ in range(4)] == [5, 6, 5, 6]
    far = made(temperature=0, presence_penalty=2.0, logit_bias={5: 30.0, 6: 29.0}, repeat_last_n=-1)
    assert [far.sample(ROW) for _ in range(4)] == [5, 6, 5, 5]


def test_only_a_few_dry_samplers_are_kept(model: LoadedModel) -> None:
    choosers = SamplerFactory(model)
    for i in range(20):
        choosers.make(SamplingParams(dry_multiplier=1 + i / 10), [1]).close()
    assert len(choosers._dry_samplers) == 8
