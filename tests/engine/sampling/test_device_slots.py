"""Sampling on the device, here the CPU back end of a real llama.cpp, gives the host's tokens.

Past 400 lines because all kinds of requests go to the one model that is made here.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.alike import are_alike
from tests.engine.harness import (
    EXACT,
    GREEDY,
    forget_all,
    full_step,
    loaded,
    make_request,
    run,
    tokens_of,
    write_f32,
)
from tests.engine.speculative.test_prompt_lookup import Foreseen
from vram_llm.engine.generation import Generation
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Grammar, GrammarKind, Request, SamplingParams, TokenEvent
from vram_llm.engine.sampling.choose_sampler import NEARLY_ALL, device_sampler_config
from vram_llm.engine.sampling.sampler_chains import device_chain
from vram_llm.engine.sequence import DeviceSamplerConfig
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.sampling import MOST_TOP_K, SamplerChain
from vram_llm.planner.types import MOST_BIASED, BackendSampling, Serving

pytestmark = pytest.mark.process  # computes for many seconds

N_VOCAB = 320
ALONE = Serving(cache_reuse=0)
PROMPT = (1, 77, 300, 12)
DRAWN: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}

Answer = list[TokenEvent]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_f32(tmp_path_factory.mktemp("seats") / "f32.gguf")


@pytest.fixture(scope="module")
def models(plan_on_cpu: PlanOnCpu, path: Path) -> Iterator[dict[BackendSampling, LoadedModel]]:
    """The tiny model twice, sampled on the host and "on the device"; 512 cells, four sequences."""
    off, on = (
        plan_on_cpu(path, n_batch=64, n_ubatch=16, serving=ALONE, backend_sampling=where, **EXACT)
        for where in (BackendSampling.OFF, BackendSampling.ON)
    )
    with loaded(off) as on_host, loaded(on) as on_device:
        yield {BackendSampling.OFF: on_host, BackendSampling.ON: on_device}


@pytest.fixture(autouse=True)
def undrafted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drafted, which time decides, so that the same rows are always computed together."""
    monkeypatch.setattr(Generation, "draft", lambda *_: [])


@pytest.fixture
def on_host(models: dict[BackendSampling, LoadedModel]) -> Iterator[Loop]:
    yield from _loop(models[BackendSampling.OFF])


@pytest.fixture
def device(models: dict[BackendSampling, LoadedModel]) -> Iterator[Loop]:
    yield from _loop(models[BackendSampling.ON])


def _loop(model: LoadedModel) -> Iterator[Loop]:
    yield Loop(model)
    forget_all(model)


def _prompts(n: int, least: int = 3, most: int = 40) -> list[tuple[int, ...]]:
    pick = np.random.default_rng(4)
    return [(1, *map(int, pick.integers(3, N_VOCAB, pick.integers(least, most)))) for _ in range(n)]


def _request(name: str, prompt: tuple[int, ...] = PROMPT, **options: Any) -> Request:
    return make_request(name, prompt, **{"max_tokens": 8, **options})


def _run(loop: Loop, *requests: Request) -> dict[str, list[int]]:
    """The tokens of each, all asked for at once."""
    answers = run(loop, *requests)
    assert [events[-1].error for events in answers.values() if events[-1].error is not None] == []
    return {name: tokens_of(events) for name, events in answers.items()}


# -- the same as on the host ---------------------------------------------------------------------


def test_the_most_likely_token_is_the_hosts(on_host: Loop, device: Loop) -> None:
    requests = [_request(f"r{i}", prompt, max_tokens=24) for i, prompt in enumerate(_prompts(12))]
    assert _run(device, *requests) == _run(on_host, *requests)
    figures = device.stats()
    assert figures.n_device_tokens == figures.n_generated_tokens == 12 * 24
    assert on_host.stats().n_device_tokens == 0


def test_samplers_that_the_device_refuses_are_not_tried_again(
    device: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = LoadedModel.attach
    tried: list[SamplerChain | None] = []

    def refuse(model: LoadedModel, slot: int, chain: SamplerChain | None) -> bool:
        tried.append(chain)
        return attach(model, slot, None) and chain is None

    monkeypatch.setattr(LoadedModel, "attach", refuse)
    params = [SamplingParams(temperature=0.5 + i / 10, seed=i) for i in range(5)]
    for i, sampling in enumerate(params):
        _run(device, _request(f"r{i}", sampling=sampling))
    assert sum(chain is not None for chain in tried) == 1
    assert device.stats().n_device_tokens == 0


def test_the_last_of_two_best_tokens_is_taken_on_a_processor(device: Loop) -> None:
    """ggml_vec_argmax_f32; the host takes the first, and CUDA's kernel either (argmax.cu)."""
    tied = SamplingParams(temperature=0, logit_bias={7: 1e30, 9: 1e30})
    assert set(_run(device, _request("tied", sampling=tied))["tied"]) == {9}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 20},
        {"top_p": 0.7},
        {"min_p": 0.3},
        {"logit_bias": {5: 4.0, 9: -100.0}},
        DRAWN,
        {"temperature": 0.7, "top_k": 100, "top_p": 0.9, "min_p": 0.05, "logit_bias": {5: 4.0}},
        {"temperature": 0.8, "repeat_penalty": 1.3, "presence_penalty": 0.5},  # by the host
    ],
    ids=str,
)
def test_draws_are_distributed_as_on_the_host(on_host: Loop, device: Loop, options: dict[str, Any]) -> None:
    found = [
        [
            Counter(tokens[place] for tokens in _run(loop, *_of_one_kind(options, seed, n=1200)).values())
            for place in (0, 1)
        ]
        for loop, seed in ((on_host, 1), (device, 10_000))
    ]
    for ours, theirs in zip(*found, strict=True):
        assert are_alike(ours, theirs)


def _of_one_kind(options: dict[str, Any], seed: int, n: int) -> list[Request]:
    """Requests that differ in their seeds. The second of their tokens follows a first that is forced."""
    return [
        _request(f"{seed + i}", max_tokens=2, sampling=SamplingParams(**options, seed=seed + i))
        for i in range(n)
    ]


def test_a_seed_gives_the_same_answer_again(device: Loop) -> None:
    def answers(*seeds: int) -> list[list[int]]:
        requests = [
            _request(f"{i}", max_tokens=20, sampling=SamplingParams(**DRAWN, seed=seed))
            for i, seed in enumerate(seeds)
        ]
        return list(_run(device, *requests).values())

    first, second, other = answers(5, 5, 6)
    assert first == second != other
    assert answers(9, 5)[1] == first


# -- side by side --------------------------------------------------------------------------------


def _mixed() -> list[Request]:
    """Requests: greedy, drawn, with a grammar, with logprobs, with penalties, with prompt logprobs."""
    prompts = _prompts(8)
    ways: list[dict[str, Any]] = [
        {},
        {"sampling": SamplingParams(**DRAWN, seed=3)},
        {"sampling": SamplingParams(seed=4)},
        {"grammar": Grammar(kind=GrammarKind.REGEX, text="[ab]{6}", field="regex"), "ignore_eos": False},
        {"logprobs": 2},
        {"sampling": SamplingParams(temperature=0, repeat_penalty=1.5)},
        {"prompt_logprobs": 0},
        {"sampling": SamplingParams(temperature=0, logit_bias={9: 90.0})},
    ]
    return [_request(f"r{i}", prompts[i], **way) for i, way in enumerate(ways)]


def test_requests_of_all_kinds_get_the_same_answers_together_as_alone(device: Loop) -> None:
    alone = [_run(device, request)[request.id] for request in _mixed()]
    assert list(_run(device, *_mixed()).values()) == alone
    assert 0 < device.stats().n_device_tokens < device.stats().n_generated_tokens


def test_requests_that_the_host_samples_get_the_hosts_tokens(on_host: Loop, device: Loop) -> None:
    for_host = [request for request in _mixed() if device_sampler_config(request, N_VOCAB) is None]
    assert len(for_host) == 4
    assert _run(device, *_mixed()).items() >= _run(on_host, *for_host).items()


def test_a_hundred_requests_each_with_other_parameters(device: Loop) -> None:
    pick = np.random.default_rng(8)
    requests = [
        _request(
            f"r{i}",
            max_tokens=int(pick.integers(1, 6)),
            logprobs=1 if i % 9 == 0 else None,
            sampling=SamplingParams(
                temperature=float(pick.choice([0, 0.5, 1])),
                top_k=int(pick.choice([0, 1, 40, 5000])),
                top_p=float(pick.choice([0, 0.3, 0.95, 1])),
                min_p=float(pick.choice([0, 0.1, 0.95, 1])),
                repeat_penalty=float(pick.choice([1, 1, 1.1])),
                logit_bias={int(pick.integers(N_VOCAB)): 2.0} if i % 5 == 0 else None,
            ),
        )
        for i in range(100)
    ]
    answers = _run(device, *requests)
    assert [len(answers[r.id]) for r in requests] == [r.max_tokens for r in requests]


# -- slots ---------------------------------------------------------------------------------------


def test_a_slot_keeps_its_chain_for_requests_with_its_config(device: Loop) -> None:
    drawn = [_request(f"d{i}", sampling=SamplingParams(**DRAWN)) for i in range(8)]
    _run(device, *drawn)
    n_reserved = device.stats().n_reserved
    _run(device, *drawn)
    assert device.stats().n_reserved == n_reserved
    _run(device, _request("other"))
    assert device.stats().n_reserved == n_reserved + 1
    _run(device, drawn[0], _request("other"))
    assert device.stats().n_reserved == n_reserved + 1


def test_a_request_with_a_new_config_does_not_delay_streams(
    device: Loop, models: dict[BackendSampling, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If reserving is slow, here all that takes time, the host samples it, unless it has a seed."""
    loop, now = device, 0.0

    def reserve() -> None:
        nonlocal now
        now += 0.5

    monkeypatch.setattr(models[BackendSampling.ON], "reserve", reserve)
    monkeypatch.setattr("vram_llm.engine.sampling.device_slots.perf_counter", lambda: now)
    loop.submit(_request("stream", max_tokens=300))
    full_step(loop)
    assert loop.stats().n_reserved == 1
    drawn = _request("drawn", sampling=SamplingParams(**DRAWN))
    seeded = _request("seeded", sampling=SamplingParams(**DRAWN, seed=3))
    known = _request("known")
    for request, n_reserved in ((drawn, 1), (known, 2), (seeded, 3)):
        loop.submit(request)
        while loop.stats().n_running + loop.stats().n_waiting > 1:
            full_step(loop)
        assert loop.stats().n_reserved == n_reserved
    loop.cancel("stream")


def test_a_preempted_request_continues_its_draws(plan_on_cpu: PlanOnCpu, path: Path) -> None:
    """Only two tokens are possible, so that rounding, which depends on other rows, decides nothing."""
    plan = plan_on_cpu(
        path, n_ctx=256, n_batch=64, n_ubatch=16, serving=ALONE, backend_sampling=BackendSampling.ON, **EXACT
    )
    with loaded(plan) as model:
        requests = [
            _request(
                f"r{i}",
                prompt,
                max_tokens=90,
                sampling=SamplingParams(temperature=1 + i / 4, logit_bias={7: 90.0, 9: 90.0}, seed=i),
            )
            for i, prompt in enumerate(_prompts(4))
        ]
        loop = Loop(model)
        alone = [_run(loop, request)[request.id] for request in requests]
        assert loop.stats().n_preemptions == 0
        assert list(_run(loop, *requests).values()) == alone
        assert loop.stats().n_preemptions > 0


def test_a_cancelled_request_leaves_nothing_behind(device: Loop) -> None:
    sampling = SamplingParams(**DRAWN, seed=2)
    expected = _run(device, _request("again", max_tokens=20, sampling=sampling))
    device.submit(_request("gone", max_tokens=300, sampling=sampling))
    for _ in range(5):
        full_step(device)
    device.cancel("gone")
    assert device.is_idle
    assert _run(device, _request("again", max_tokens=20, sampling=sampling)) == expected


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, SamplingParams(seed=7), SamplingParams(**DRAWN, logit_bias={7: 90.0, 9: 90.0}, seed=8)],
    ids=["best", "any", "one of two"],
)
def test_no_draft_changes_an_answer(
    device: Loop, monkeypatch: pytest.MonkeyPatch, sampling: SamplingParams
) -> None:
    """Not a drawn answer either: a position's random number counts once its token is accepted.

    With a top-k, of few tokens: rounding decides the order of near ties, as on the host.
    """
    request = _request("r", max_tokens=80, sampling=sampling)
    plain = _run(device, request)["r"]
    monkeypatch.setattr(PromptLookup, "tokens_until_credit", 0)  # drafts even if they are rejected
    monkeypatch.setattr(PromptLookup, "follow", lambda *_: True)  # and after all tokens
    for seed in (3, 9):
        draft = Foreseen(plain, seed)
        monkeypatch.setattr(Generation, "draft", lambda *given, draft=draft: draft(*given))
        assert _run(device, request)["r"] == plain
    figures = device.stats()
    assert 40 < figures.n_accepted_tokens < figures.n_drafted_tokens
    assert figures.n_device_tokens == 3 * 80


KINDS = [
    DeviceSamplerConfig(0.8, top_k, top_p, min_p, tuple((token, 1.0) for token in range(n_biased)))
    for top_k in (0, 40)
    for top_p in (1.0, 0.9)
    for min_p in (0.0, 0.1)
    for n_biased in (0, 200)
]


@pytest.fixture(scope="module")
def with_flash_attention(plan_on_cpu: PlanOnCpu, path: Path) -> Iterator[LoadedModel]:
    """The tiny model, sampled "on the device", with less memory for attention than for chains."""
    plan = plan_on_cpu(path, n_batch=64, n_ubatch=16, backend_sampling=BackendSampling.ON)
    with loaded(plan) as model:
        yield model


@pytest.mark.parametrize(
    "kind", [*KINDS, DeviceSamplerConfig()], ids=lambda kind: f"{kind[:4]} {len(kind.bias)}"
)
def test_no_chain_takes_more_than_was_reserved(
    with_flash_attention: LoadedModel, kind: DeviceSamplerConfig
) -> None:
    model = with_flash_attention
    for slot in range(4):
        assert model.attach(slot, device_chain(kind, N_VOCAB, 1))
    model.reserve()
    assert model.memory_use()["host"].compute_bytes <= model.plan.estimate.host.compute_bytes


# -- policy --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"temperature": 0, "top_k": 5, "seed": 1}, DeviceSamplerConfig()),
        (
            {"temperature": 1e-6, "logit_bias": {9: 1.0, 3: 2.0}},
            DeviceSamplerConfig(bias=((3, 2.0), (9, 1.0))),
        ),
        ({"seed": 1}, DeviceSamplerConfig(1.0)),
        ({**DRAWN, "min_p": 0.05}, DeviceSamplerConfig(0.8, 40, 0.95, 0.05)),
        ({"top_k": N_VOCAB}, DeviceSamplerConfig(1.0)),  # keeps all there are
        ({"top_k": 40}, DeviceSamplerConfig(1.0, 40)),
        ({"top_k": 40, "seed": 1}, DeviceSamplerConfig(1.0, 40, NEARLY_ALL)),  # in an order
        ({"min_p": 1.0}, None),
        ({"repeat_penalty": 1.1}, None),
        ({"dry_multiplier": 0.8}, None),
        ({"typical_p": 0.9}, None),
        ({"top_n_sigma": 1.0}, None),
        ({"xtc_probability": 0.5}, None),
        ({"mirostat": 2}, None),
    ],
    ids=str,
)
def test_the_config_of_a_request(options: dict[str, Any], kind: DeviceSamplerConfig | None) -> None:
    assert device_sampler_config(_request("r", sampling=SamplingParams(**options)), N_VOCAB) == kind


def test_requests_beyond_a_devices_limits_are_sampled_on_the_host() -> None:
    n_vocab = 200_000
    many: dict[str, Any] = {"logit_bias": dict.fromkeys(range(MOST_BIASED + 1), 1.0)}
    for options in ({"top_k": MOST_TOP_K + 1}, many):
        assert device_sampler_config(_request("r", sampling=SamplingParams(**options)), n_vocab) is None
    assert device_sampler_config(_request("r", logprobs=0), n_vocab) is None
    assert device_sampler_config(_request("r", prompt_logprobs=0), n_vocab) is None


def test_with_a_cache_for_each_sequence(plan_on_cpu: PlanOnCpu, path: Path) -> None:
    """llama.cpp then computes rows in another order than that of the batch."""
    answers = []
    for where in (BackendSampling.OFF, BackendSampling.ON):
        plan = plan_on_cpu(
            path, n_ctx=1024, kv_unified=False, n_batch=64, n_ubatch=16, backend_sampling=where, **EXACT
        )
        with loaded(plan) as model:
            requests = [_request(f"r{i}", prompt, max_tokens=5 + i) for i, prompt in enumerate(_prompts(8))]
            requests[3] = _request("r3", _prompts(8)[3], logprobs=1)
            answers.append(_run(Loop(model), *requests))
    assert answers[0] == answers[1]
