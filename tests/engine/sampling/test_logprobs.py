"""Log probabilities equal their definition, for answers and prompts, however they are computed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, loaded, make_request, run, tokens_of, write_f32
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, Likelihood, Request, SamplingParams
from vram_llm.engine.sampling.logprobs import LEAST, likelihood
from vram_llm.llama.model import LoadedModel


@pytest.fixture(scope="module")
def model(plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    path = write_f32(tmp_path_factory.mktemp("logprobs") / "f32.gguf")
    with loaded(plan_on_cpu(path, **EXACT)) as model:
        yield model


def _definition(model: LoadedModel, tokens: list[int]) -> npt.NDArray[np.float64]:
    """Log probabilities after `tokens`, of shape (n_vocab,)."""
    model.forget(0)
    model.batch.clear()
    row = model.batch.add(tokens, 0, 0, n_outputs=1)
    assert model.decode() == 0
    logits = model.logits(row).astype(np.float64)
    model.forget(0)
    return np.asarray(logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max())


def _run(loop: Loop, *requests: Request) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "tokens": tokens_of(events),
            "logprobs": [each for event in events for each in event.logprobs],
            "prompt": [each for event in events for each in event.prompt_logprobs],
            "end": events[-1],
        }
        for name, events in run(loop, *requests).items()
    }


def _request(name: str = "r", **options: Any) -> Request:
    return make_request(name, **{"max_tokens": 6, **options})


def test_of_an_answer(model: LoadedModel) -> None:
    told = _run(Loop(model), _request(logprobs=4))["r"]
    assert [each.chosen.token for each in told["logprobs"]] == told["tokens"]
    for i, each in enumerate(told["logprobs"]):
        wanted = _definition(model, [1, 50, 60, *told["tokens"][:i]])
        assert [c.token for c in each.top] == list(np.argsort(-wanted, kind="stable")[:4])
        assert [c.logprob for c in each.top] == pytest.approx(np.sort(wanted)[::-1][:4], abs=1e-4)
        assert each.chosen == each.top[0]
        assert each.chosen.piece == model.vocab.spelling(each.chosen.token)


def test_before_temperature_penalties_and_bias(model: LoadedModel) -> None:
    sampling = SamplingParams(temperature=0.01, logit_bias={77: 100.0}, repeat_penalty=1.5)
    (each,) = _run(Loop(model), _request(sampling=sampling, logprobs=0, max_tokens=1))["r"]["logprobs"]
    assert each.chosen.token == 77
    assert each.chosen.logprob == pytest.approx(_definition(model, [1, 50, 60])[77], abs=1e-4)
    assert each.top == ()


def test_an_end_is_no_part_of_the_answer(model: LoadedModel) -> None:
    """The tokens with logprobs spell the text."""
    sampling = SamplingParams(temperature=0, logit_bias={2: 100.0})
    told = _run(Loop(model), _request(sampling=sampling, logprobs=1, ignore_eos=False))["r"]
    assert (told["tokens"], told["logprobs"]) == ([2], [])


def test_no_logprobs_unless_requested(model: LoadedModel) -> None:
    told = _run(Loop(model), _request())["r"]
    assert (told["logprobs"], told["prompt"]) == ([], [])


def test_a_probability_of_0_is_written_as_a_number(model: LoadedModel) -> None:
    logits = np.full(model.vocab.n_tokens, -np.inf, np.float32)
    logits[5] = 1
    each = likelihood(model.vocab, logits, 9, 2)
    assert each.chosen.logprob == LEAST
    assert [c.logprob for c in each.top] == [0, LEAST]


PROMPT = (1, *map(int, np.random.default_rng(6).integers(3, 320, 60)))


def _check_prompt(model: LoadedModel, told: list[Likelihood], prompt: tuple[int, ...], n_top: int) -> None:
    assert [each.chosen.token for each in told] == list(prompt)
    assert (told[0].chosen.logprob, told[0].top) == (None, ())
    for place in (1, 2, 7, 8, 9, len(prompt) - 1):
        wanted = _definition(model, list(prompt[:place]))
        assert told[place].chosen.logprob == pytest.approx(wanted[prompt[place]], abs=1e-4)
        assert [c.logprob for c in told[place].top] == pytest.approx(np.sort(wanted)[::-1][:n_top], abs=1e-4)


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_of_a_prompt(model: LoadedModel, max_tokens: int) -> None:
    """Computed in chunks of as many rows as a step has logits for; reported whole in the first event."""
    loop = Loop(model)
    told = _run(loop, _request(prompt=PROMPT, prompt_logprobs=2, logprobs=0, max_tokens=max_tokens))["r"]
    _check_prompt(model, told["prompt"], PROMPT, 2)
    assert (len(told["tokens"]), len(told["logprobs"])) == (max_tokens, max_tokens)
    assert told["end"].finish_reason is FinishReason.LENGTH
    assert loop.stats().n_steps == -(-len(PROMPT) // 8) + max(max_tokens - 1, 0)


def test_of_a_prompt_that_is_in_the_cache(model: LoadedModel) -> None:
    loop = Loop(model)
    _run(loop, _request(prompt=PROMPT))
    told = _run(loop, _request(prompt=PROMPT, prompt_logprobs=1, max_tokens=1))["r"]
    _check_prompt(model, told["prompt"], PROMPT, 1)
    assert told["end"].cached_tokens == 0


def test_of_prompts_that_share_steps_with_others_and_with_streams(model: LoadedModel) -> None:
    requests = [
        _request("stream", max_tokens=40),
        _request("a", prompt=PROMPT, prompt_logprobs=1, max_tokens=2),
        _request("b", prompt=PROMPT[:30], prompt_logprobs=0, max_tokens=2),
        _request("plain", prompt=PROMPT[5:40], max_tokens=2),
        _request("late", prompt=PROMPT[:12], prompt_logprobs=0, max_tokens=0),
    ]
    told = _run(Loop(model), *requests)
    _check_prompt(model, told["a"]["prompt"], PROMPT, 1)
    _check_prompt(model, told["b"]["prompt"], PROMPT[:30], 0)
    _check_prompt(model, told["late"]["prompt"], PROMPT[:12], 0)
    assert [len(told[name]["tokens"]) for name in ("stream", "a", "b", "plain", "late")] == [40, 2, 2, 2, 0]


def test_a_preempted_prompt_reports_nothing_twice(plan_on_cpu: PlanOnCpu) -> None:
    with loaded(plan_on_cpu(n_ctx=256)) as model:
        loop = Loop(model)
        requests = [_request(f"r{i}", prompt=PROMPT, prompt_logprobs=0, max_tokens=80) for i in range(4)]
        told = _run(loop, *requests)
        assert loop.stats().n_preemptions > 0
        for each in told.values():
            assert [likely.chosen.token for likely in each["prompt"]] == list(PROMPT)
            assert len(each["tokens"]) == 80


def test_a_prompt_of_one_token(model: LoadedModel) -> None:
    told = _run(Loop(model), _request(prompt=(5,), prompt_logprobs=2, max_tokens=1))["r"]
    assert [(each.chosen.token, each.chosen.logprob) for each in told["prompt"]] == [(5, None)]
