"""Filters in an order of the client's, and the candidates that they leave."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import loaded, make_request
from vram_llm.engine.request import FILTERS, Grammar, GrammarKind, SamplingParams
from vram_llm.engine.sampling.choose_sampler import SamplerFactory, device_sampler_config, numpy_suffices
from vram_llm.engine.sampling.infill_sampler import check_infill_sampler
from vram_llm.engine.sampling.logprobs import sampled_likelihood
from vram_llm.engine.sampling.sampler import Sampler
from vram_llm.errors import RequestError
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.sampling import SamplerChain

ROW = 3
INFILL = ("top_k", "top_p", "infill")
Made = Callable[..., Sampler]


@pytest.fixture(scope="module")
def model(plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    """The tiny model, after a prompt."""
    with loaded(plan_on_cpu()) as model:
        model.batch.add([1, 77, 300, 12], 0, 0, n_outputs=1)
        assert model.decode() == 0
        yield model


@pytest.fixture
def made(model: LoadedModel) -> Iterator[Made]:
    """Makes samplers, and closes them."""
    choosers, all_made = SamplerFactory(model), []

    def make(**options: Any) -> Sampler:
        all_made.append(choosers.make(SamplingParams(**options), [1, 77, 300, 12]))
        return all_made[-1]

    yield make
    for sampler in all_made:
        sampler.close()


def left(model: LoadedModel, *filters: tuple[str, Any]) -> dict[int, float]:
    """The probabilities of the tokens that llama.cpp's filters leave."""
    chain = SamplerChain(model.vocab.n_tokens)
    for name, value in filters:
        getattr(chain, name)(*(value if isinstance(value, tuple) else (value,)))
    logits = chain.filtered(model.logits(ROW))
    chain.close()
    best = max(logits.values())
    weights = {token: float(np.exp(logit - best)) for token, logit in logits.items()}
    return {token: weight / sum(weights.values()) for token, weight in weights.items() if weight}


@pytest.mark.parametrize(
    ("samplers", "filters"),
    [
        (("temperature", "top_p"), [("temperature", 3.0), ("top_p", 0.5)]),
        (("top_p", "temperature"), [("top_p", 0.5), ("temperature", 3.0)]),
        (("top_p", "top_k", "top_p"), [("top_p", 0.5), ("top_k", 9), ("top_p", 0.5)]),
        (("min_p", "top_k"), [("min_p", 0.3), ("top_k", 9)]),
        (
            ("temperature", "typ_p", "top_n_sigma"),
            [("temperature", 3.0), ("typical", 0.6), ("top_n_sigma", 1.0)],
        ),
        ((), []),
    ],
    ids=str,
)
def test_filters_are_applied_in_the_order_of_their_names(
    model: LoadedModel, made: Made, samplers: tuple[str, ...], filters: list[tuple[str, Any]]
) -> None:
    options = {
        "temperature": 3.0,
        "top_p": 0.5,
        "top_k": 9,
        "min_p": 0.3,
        "typical_p": 0.6,
        "top_n_sigma": 1.0,
    }
    sampler = made(**options, samplers=samplers, seed=4)
    token, candidates = sampler.sample_candidates(ROW)
    assert token in candidates
    assert candidates == pytest.approx(left(model, *filters), abs=1e-6)


def test_the_order_matters(made: Made) -> None:
    options: dict[str, Any] = {"temperature": 3.0, "top_p": 0.5, "seed": 1}
    hot_first = made(**options, samplers=("temperature", "top_p")).sample_candidates(ROW)[1]
    assert len(hot_first) > len(made(**options).sample_candidates(ROW)[1])


@pytest.mark.parametrize("samplers", [None, FILTERS, ("temperature", "top_k"), ("top_k", "temperature")])
def test_a_temperature_of_0_takes_the_best_in_any_order(
    model: LoadedModel, made: Made, samplers: tuple[str, ...] | None
) -> None:
    best = int(model.logits(ROW).argmax())
    sampler = made(temperature=0, top_k=9, samplers=samplers)
    assert sampler.sample_candidates(ROW) == (best, {best: 1.0})
    assert sampler.sample(ROW) == best


@pytest.mark.parametrize(
    ("options", "filters"),
    [
        ({"typical_p": 0.05}, [("typical", 0.05)]),
        ({"typical_p": 0.05, "top_k": 9}, [("top_k", 9), ("typical", 0.05)]),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.002, "seed": 1}, [("xtc", (1.0, 0.002, 1))]),
    ],
    ids=str,
)
def test_a_temperature_of_0_takes_the_best_that_filters_before_it_leave(
    model: LoadedModel, made: Made, options: dict[str, Any], filters: list[tuple[str, Any]]
) -> None:
    """As in llama-server, where typical_p and XTC may drop the most likely token."""
    kept = left(model, *filters)
    best = max(kept, key=kept.__getitem__)
    assert best != int(model.logits(ROW).argmax())
    sampler = made(temperature=0, **options)
    assert sampler.sample_candidates(ROW) == (best, {best: 1.0})
    assert sampler.sample(ROW) == best
    request = make_request("a", sampling=SamplingParams(temperature=0, **options))
    assert device_sampler_config(request, model.vocab.n_tokens) is None


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "typical_p": 0.3},
        {"temperature": 0, "presence_penalty": 1.5},
        {"top_k": 7, "temperature": 0.7},
        {"top_p": 0.6, "min_p": 0.1},
        {},
        {"typical_p": 0.7},
        {"logit_bias": {5: 3.0}},
        {"mirostat": 1},
        {"mirostat": 2, "mirostat_tau": 3.0},
        {"samplers": ("temperature", "top_k"), "top_k": 20},
    ],
    ids=str,
)
@pytest.mark.parametrize("allowed", [None, np.array([4, 40, 77, 301])], ids=["all", "some"])
def test_candidates_are_those_that_are_drawn(
    model: LoadedModel, made: Made, options: dict[str, Any], allowed: Any
) -> None:
    """The same tokens with and without candidates; each in proportion to its probability."""
    alone, listed = made(**options, seed=3), made(**options, seed=3)
    drawn = [listed.sample_candidates(ROW, allowed) for _ in range(50)]
    assert [token for token, _ in drawn] == [alone.sample(ROW, allowed) for _ in range(50)]
    for token, candidates in drawn:
        assert sum(candidates.values()) == pytest.approx(1)
        assert candidates[token] > 0
        assert allowed is None or set(candidates) <= set(allowed.tolist())


def test_a_likelihood_among_candidates(model: LoadedModel) -> None:
    found = sampled_likelihood(model.vocab, {5: 0.25, 6: 0.5, 7: 0.25, 8: 0.0}, 7, 2)
    assert found.chosen.logprob == pytest.approx(np.log(0.25))
    assert [candidate.token for candidate in found.top] == [6, 5]
    assert len(sampled_likelihood(model.vocab, {5: 1.0, 8: 0.0}, 5, 9).top) == 1


def test_other_orders_need_llama_cpps_chain(model: LoadedModel) -> None:
    request = make_request("a", sampling=SamplingParams(samplers=("temperature", "top_k")))
    assert not numpy_suffices(request.sampling)
    assert device_sampler_config(request, model.vocab.n_tokens) is None


def test_infill_prefers_an_end(model: LoadedModel, made: Made) -> None:
    """An end of a tenth of the probability is taken where no token has more."""
    end = model.vocab.eos
    likely = float(model.logits(ROW).max() - model.logits(ROW)[end])
    options: dict[str, Any] = {"top_k": 40, "logit_bias": {end: likely - 1}}
    plain = Counter(made(**options, seed=5).sample(ROW) for _ in range(50))
    filled = Counter(made(**options, seed=5, samplers=INFILL).sample(ROW) for _ in range(50))
    assert plain[end] < filled[end] == 50


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": SamplingParams(samplers=("infill",), top_k=40)},
        {"sampling": SamplingParams(samplers=INFILL, top_k=0)},
        {"sampling": SamplingParams(samplers=INFILL, top_k=257)},
        {"sampling": SamplingParams(samplers=("infill", "top_k"), top_k=40)},
        {"sampling": SamplingParams(samplers=INFILL, top_k=40), "min_tokens": 3},
        {
            "sampling": SamplingParams(samplers=INFILL, top_k=40),
            "grammar": Grammar(kind=GrammarKind.REGEX, text="a", field="grammar"),
        },
    ],
)
def test_infill_refused(model: LoadedModel, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as refusal:
        check_infill_sampler(make_request("a", **options), model.vocab)
    assert refusal.value.param == "samplers"


def test_infill_taken(model: LoadedModel) -> None:
    check_infill_sampler(make_request("a", sampling=SamplingParams(samplers=INFILL, top_k=256)), model.vocab)


@pytest.mark.parametrize(
    ("options", "filters"),
    [
        ({"temperature": 1.0, "dynatemp_range": 0.5}, [("dynamic_temperature", (1.0, 0.5, 1.0))]),
        (
            {"temperature": 1.0, "dynatemp_range": 0.5, "dynatemp_exponent": 2.0, "top_k": 9},
            [("top_k", (9,)), ("dynamic_temperature", (1.0, 0.5, 2.0))],
        ),
        ({"temperature": 0.0, "dynatemp_range": 2.0}, [("dynamic_temperature", (1.0005, 0.9995, 1.0))]),
        ({"top_p": 0.01, "min_keep": 7}, [("top_p", (0.01, 7))]),
        ({"min_p": 1.0, "min_keep": 3}, [("min_p", (1.0, 3))]),
        ({"typical_p": 0.01, "min_keep": 5}, [("typical", (0.01, 5))]),
    ],
    ids=str,
)
def test_a_temperature_by_entropy_and_a_least_number_of_tokens(
    model: LoadedModel, made: Made, options: dict[str, Any], filters: list[tuple[str, tuple[Any, ...]]]
) -> None:
    chain = SamplerChain(model.vocab.n_tokens)
    for name, values in filters:
        getattr(chain, name)(*values)
    logits = chain.filtered(model.logits(ROW))
    chain.close()
    candidates = made(**options, seed=1).sample_candidates(ROW)[1]
    best = max(logits.values())
    weights = {token: float(np.exp(logit - best)) for token, logit in logits.items()}
    total = sum(weights.values())
    expected = {token: weight / total for token, weight in weights.items() if weight}
    assert candidates == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("exponent", [1.0, 100.0])
def test_a_dynamic_temperature_of_nearly_0_takes_the_best(
    model: LoadedModel, made: Made, exponent: float
) -> None:
    best = int(model.logits(ROW).argmax())
    bias = {best: 80.0}
    sampler = made(temperature=0.5, dynatemp_range=0.5, dynatemp_exponent=exponent, logit_bias=bias, seed=1)
    assert {sampler.sample(ROW) for _ in range(20)} == {best}


def test_adaptive_p_samples_near_its_target(made: Made) -> None:
    """The mean probability of what is sampled is higher with the higher target."""
    means = []
    for target in (0.02, 0.5):
        sampler = made(
            samplers=("top_k", "temperature", "adaptive_p"), top_k=20, temperature=0.3, seed=3,
            adaptive_target=target,
        )  # fmt: skip
        plain = made(top_k=20, temperature=0.3).sample_candidates(ROW)[1]
        means.append(np.mean([plain[sampler.sample(ROW)] for _ in range(300)]))
    assert means[0] < means[1]


def test_what_is_resumed(made: Made) -> None:
    adaptive = SamplingParams(samplers=("adaptive_p",), adaptive_target=0.3, seed=1)
    assert not make_request("a", sampling=adaptive).can_resume
    assert make_request("a", sampling=SamplingParams(samplers=("adaptive_p",), seed=1)).can_resume
    assert not make_request("a", sampling=SamplingParams(temperature=0, dynatemp_range=1)).can_resume
    assert not make_request("a", sampling=SamplingParams(temperature=0, xtc_probability=0.5)).can_resume
    assert make_request("a", sampling=SamplingParams(temperature=0, typical_p=0.5)).can_resume
