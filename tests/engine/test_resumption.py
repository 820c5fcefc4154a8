"""An answer that another loop begins and this one continues is the same as one that this one writes whole."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, forget_all, loaded, make_request, run, text_of, tokens_of, write_f32
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Grammar, GrammarKind, ReasoningBudget, SamplingParams
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import BackendSampling

GRAMMAR = Grammar(kind=GrammarKind.REGEX, text="[a-z]{40}", field="regex")
SEEDED: dict[str, Any] = {"temperature": 0.9, "seed": 11}


def on(plan_on_cpu: PlanOnCpu, path: Path, where: BackendSampling) -> Iterator[LoadedModel]:
    with loaded(plan_on_cpu(path, n_batch=64, n_ubatch=16, backend_sampling=where, **EXACT)) as model:
        yield model


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_f32(tmp_path_factory.mktemp("resumed") / "f32.gguf")


@pytest.fixture(scope="module")
def host_model(plan_on_cpu: PlanOnCpu, path: Path) -> Iterator[LoadedModel]:
    yield from on(plan_on_cpu, path, BackendSampling.OFF)


@pytest.fixture(scope="module")
def device_model(plan_on_cpu: PlanOnCpu, path: Path) -> Iterator[LoadedModel]:
    yield from on(plan_on_cpu, path, BackendSampling.ON)


def check(model: LoadedModel, **options: Any) -> None:
    """Wherever the beginning ends, the rest is that of the whole answer."""
    request = make_request("r", **{"max_tokens": 24, **options})
    forget_all(model)
    whole = run(Loop(model), request)["r"]
    for n_events in (1, len(whole) // 2, len(whole) - 2):
        begun, rest = whole[:n_events], whole[n_events:]
        forget_all(model)
        resumed = run(Loop(model), replace(request, written=tuple(tokens_of(begun))))["r"]
        assert tokens_of(resumed) == tokens_of(rest)
        assert text_of(resumed) == text_of(rest)
        probabilities = [
            [likelihood for event in part for likelihood in event.logprobs] for part in (resumed, rest)
        ]
        assert [p.chosen.token for p in probabilities[0]] == [p.chosen.token for p in probabilities[1]]
        assert not any(event.prompt_logprobs for event in resumed)
        last, expected = resumed[-1], rest[-1]
        assert (last.finish_reason, last.stop) == (expected.finish_reason, expected.stop)
        assert (last.prompt_tokens, last.completion_tokens) == (
            expected.prompt_tokens,
            expected.completion_tokens,
        )


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0},
        {"temperature": 0, "repeat_penalty": 1.3, "presence_penalty": 0.4},
        {"temperature": 0, "dry_multiplier": 0.8},
        SEEDED,
        {**SEEDED, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
        {**SEEDED, "repeat_penalty": 1.2, "top_k": 20},
        {**SEEDED, "typical_p": 0.9, "logit_bias": {9: 2.0}},
    ],
    ids=str,
)
def test_sampling(host_model: LoadedModel, sampling: dict[str, Any]) -> None:
    check(host_model, sampling=SamplingParams(**sampling))


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, SEEDED, {**SEEDED, "top_k": 20, "top_p": 0.9}], ids=str
)
def test_sampling_on_the_device(device_model: LoadedModel, sampling: dict[str, Any]) -> None:
    check(device_model, sampling=SamplingParams(**sampling))


@pytest.mark.parametrize("seed", [None, 5])
def test_a_grammar(host_model: LoadedModel, seed: int | None) -> None:
    sampling = SamplingParams(temperature=0 if seed is None else 1, seed=seed)
    check(host_model, grammar=GRAMMAR, sampling=sampling, max_tokens=30)


def test_probabilities(host_model: LoadedModel) -> None:
    check(host_model, logprobs=2, prompt_logprobs=1)


def test_rules_for_tokens(host_model: LoadedModel) -> None:
    budget = ReasoningBudget(n_tokens=12, opening="<think>", closing="</think>", opened=True)
    check(host_model, reasoning_budget=budget, max_tokens=40)
    check(host_model, min_tokens=15, ignore_eos=False, max_tokens=20)


def test_a_stop_string_across_the_place_of_the_death(host_model: LoadedModel) -> None:
    """The text held back at the death is part of what is held back after it."""
    whole = run(Loop(host_model), make_request("r", max_tokens=24))["r"]
    check(host_model, stop=(text_of(whole[12:15]), "never in it"), max_tokens=24)


@pytest.mark.parametrize("mirostat", [0, 1, 2])
def test_samplers_whose_state_is_lost_go_on_anyway(host_model: LoadedModel, mirostat: int) -> None:
    sampling = SamplingParams(mirostat=mirostat, xtc_probability=0.5)
    written = (40, 41, 42, 43)
    resumed = run(Loop(host_model), make_request("r", sampling=sampling, max_tokens=12, written=written))["r"]
    assert len(tokens_of(resumed)) == 8
