"""A draft model changes the speed of answers, and not their tokens."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.companions import write_lora
from tests.conftest import PlanOnCpu
from tests.engine.harness import (
    EXACT,
    GREEDY,
    full_step,
    full_steps,
    loaded,
    make_request,
    tokens_of,
    write_f32,
)
from tests.engine.harness import run as run_all
from tests.engine.rounding import assert_same
from tests.zoo.loadable import LOADABLE, with_vocabulary, write_loadable
from tools.random_model import write_llama
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, Grammar, GrammarKind, Request, SamplingParams
from vram_llm.engine.speculative.draft_budget import DraftCostModel
from vram_llm.engine.speculative.draft_model import DraftModelRunner
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.llama.cells import MAX_SLOTS
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.companion_candidates import draft_context
from vram_llm.planner.types import Companion, CompanionKind, Plan, Serving

F32 = gguf.GGMLQuantizationType.F32
PROMPT = (1, 50, 60, 70)


@dataclass(frozen=True)
class Models:
    """A model, and two draft models for it: the same model, and an unrelated one."""

    model: LoadedModel
    same: LoadedModel
    other: LoadedModel


def _beside(plan: Plan) -> Plan:
    return replace(plan, context=draft_context(plan.context))


@pytest.fixture(scope="module")
def models(plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    folder = tmp_path_factory.mktemp("guesses")
    path = write_f32(folder / "f32.gguf")
    other = write_llama(folder / "other.gguf", quant=F32, n_ff=(128,), seed=9, n_vocab=330)
    options = {"n_outputs_max": 24, "serving": Serving(cache_reuse=16, slots_ram_bytes=0), **EXACT}
    plan = plan_on_cpu(path, **options)
    with (
        loaded(plan) as model,
        loaded(_beside(plan)) as same,
        loaded(_beside(plan_on_cpu(other, **options))) as unlike,
    ):
        yield Models(model, same, unlike)


@pytest.fixture(autouse=True)
def no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the draft model drafts, unless a test changes that."""
    monkeypatch.setattr(PromptLookup, "draft", lambda *_: [])


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft at any cost: a test must not depend on the speed of the machine."""
    monkeypatch.setattr(DraftCostModel, "length", lambda _self, _acceptance_rate, most: min(most, 4))
    monkeypatch.setattr(DraftCostModel, "pays_to_follow", lambda *_: True)


def request(number: int, prompt: tuple[int, ...] = PROMPT, **options: Any) -> Request:
    return make_request(f"r{number}", prompt, **{"max_tokens": 40, **options})


def drafted(models: Models, draft: LoadedModel | None) -> Loop:
    """A loop over the models, with empty caches."""
    for model in (models.model, models.same, models.other):
        for slot in range(MAX_SLOTS):
            model.forget(slot)
    return Loop(models.model, draft)


def run(loop: Loop, *requests: Request) -> dict[str, list[int]]:
    """The tokens of each request; all run together."""
    return {name: tokens_of(events) for name, events in run_all(loop, *requests, steps=full_steps).items()}


def alone(models: Models, *requests: Request) -> dict[str, list[int]]:
    """The same without a draft model."""
    return run(drafted(models, None), *requests)


@pytest.mark.usefixtures("eager")
def test_drafts_by_the_model_itself_are_nearly_always_accepted(models: Models) -> None:
    (plain,) = alone(models, request(1, max_tokens=100)).values()
    loop = drafted(models, models.same)
    (tokens,) = run(loop, request(1, max_tokens=100)).values()
    assert_same(models.model, PROMPT, plain, tokens)
    figures = loop.stats()
    assert figures.n_model_drafted_tokens == figures.n_drafted_tokens
    assert figures.n_model_accepted_tokens == figures.n_accepted_tokens > 0.9 * figures.n_model_drafted_tokens
    assert figures.n_steps < 35


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        SamplingParams(seed=4),
        SamplingParams(seed=6, top_p=0.8, temperature=0.7),
        SamplingParams(seed=7, top_k=30, repeat_penalty=1.2, presence_penalty=0.4),
    ],
    ids=lambda sampling: f"seed {sampling.seed}",
)
@pytest.mark.parametrize("kind", ["same", "other"])
def test_no_draft_changes_an_answer_of_any_kind(models: Models, sampling: SamplingParams, kind: str) -> None:
    """With these seeds, rounding changes no draw. Mirostat would amplify it."""
    plain = alone(models, request(1, sampling=sampling))
    loop = drafted(models, getattr(models, kind))
    assert run(loop, request(1, sampling=sampling)) == plain
    assert loop.stats().n_model_drafted_tokens > 20


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", ["same", "other"])
def test_several_streams_come_and_go(models: Models, kind: str) -> None:
    """Six requests for four slots, some with a common beginning; slots are used again."""
    common = (1, *range(100, 140))
    prompts = [(*common, 60 + i) if i % 2 else (1, 50 + i, 60) for i in range(6)]
    requests = [request(i, prompt, max_tokens=20 + 7 * i) for i, prompt in enumerate(prompts)]
    loop = drafted(models, getattr(models, kind))
    found = run(loop, *requests)
    for each in requests:
        assert isinstance(each.prompt, tuple)
        (plain,) = alone(models, each).values()
        assert_same(models.model, each.prompt, plain, found[each.id])
    figures = loop.stats()
    assert figures.n_prefix_hits >= 2
    assert figures.n_model_drafted_tokens > 50
    if kind == "same":
        assert figures.n_model_accepted_tokens > 0.9 * figures.n_model_drafted_tokens


@pytest.mark.usefixtures("eager")
def test_the_draft_model_reads_itself_what_the_prefix_cache_has(models: Models) -> None:
    """A second turn begins with cells that the model has in a slot and the draft model perhaps in another."""
    prompt = (1, *range(100, 180))
    loop = drafted(models, models.same)
    (first,) = run(loop, request(1, prompt)).values()
    run(loop, request(2, (1, 200, 201)), request(3, (1, 202, 203)))
    before = loop.stats()
    turn = (*prompt, *first, 90, 91)
    (second,) = run(loop, request(4, turn)).values()
    after = loop.stats()
    assert after.n_prefix_tokens - before.n_prefix_tokens >= len(prompt)
    right = after.n_model_accepted_tokens - before.n_model_accepted_tokens
    assert right > 0.9 * (after.n_model_drafted_tokens - before.n_model_drafted_tokens) > 20
    (plain,) = alone(models, request(4, turn)).values()
    assert_same(models.model, turn, plain, second)


@pytest.mark.usefixtures("eager")
def test_the_draft_model_reads_what_another_namespace_has(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, begin = [], DraftModelRunner._begin

    def noted(runner: DraftModelRunner, slot: int, tokens: list[int], namespace: int) -> int:
        found.append(begin(runner, slot, tokens, namespace))
        return found[-1]

    monkeypatch.setattr(DraftModelRunner, "_begin", noted)
    loop, prompt = drafted(models, models.same), tuple(range(10, 90))
    for name, namespace in enumerate((1, 2, 2, 1)):
        run(loop, request(name, prompt=prompt, namespace=namespace))
    assert [length > 0 for length in found] == [False, False, True, False]


@pytest.mark.usefixtures("eager")
def test_a_preempted_sequence_is_followed_again(models: Models) -> None:
    """The sequences outgrow the 512 cells."""
    requests = [
        request(i, (1, *range(60 + 20 * i, 80 + 20 * i)), max_tokens=200, sampling=SamplingParams(seed=i))
        for i in range(4)
    ]
    loop = drafted(models, models.same)
    found = run(loop, *requests)
    assert loop.stats().n_preemptions > 0
    assert all(len(tokens) == 200 for tokens in found.values())
    assert loop.stats().n_model_drafted_tokens > 100


@pytest.mark.usefixtures("eager")
def test_cancelled_in_the_middle(models: Models) -> None:
    loop = drafted(models, models.same)
    for i in range(3):
        assert loop.submit(request(i, (1, 50 + i), max_tokens=300)) is None
    for _ in range(8):
        full_step(loop)
    loop.cancel("r1")
    tokens: list[int] = []
    assert loop.submit(request(9)) is None
    while not loop.is_idle:
        for event in full_step(loop):
            assert event.id != "r1"
            tokens += event.token_ids if event.id == "r9" else ()
            if event.id == "r9" and event.finish_reason is FinishReason.LENGTH:
                loop.cancel("r0")
                loop.cancel("r2")
    (plain,) = alone(models, request(9)).values()
    assert_same(models.model, PROMPT, plain, tokens)


@pytest.mark.usefixtures("eager")
def test_tokens_the_draft_model_does_not_know(
    models: Models, plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Vocabularies may be padded differently: no model gets or drafts a token that the other lacks."""
    path = write_llama(tmp_path_factory.mktemp("few") / "few.gguf", n_ff=(128,), n_vocab=300)
    with loaded(_beside(plan_on_cpu(path, n_outputs_max=24))) as few:
        sampling = SamplingParams(temperature=0, logit_bias={310: 100.0})
        loop = drafted(models, few)
        assert run(loop, request(1, (1, 315, 50), sampling=sampling)) == {"r1": [310] * 40}
        assert loop.stats().n_model_drafted_tokens == 0
    more = drafted(models, models.other)  # it has ten tokens more
    assert models.other.vocab.n_tokens > models.model.vocab.n_tokens
    run(more, request(2))
    assert more.stats().n_model_drafted_tokens > 0


@pytest.mark.usefixtures("eager")
def test_a_grammar_restricts_drafts(models: Models) -> None:
    grammar = Grammar(kind=GrammarKind.REGEX, text="[a-f]{12}", field="guided_regex")
    given = request(1, grammar=grammar, ignore_eos=False)
    plain = alone(models, given)
    loop = drafted(models, models.same)
    assert run(loop, given) == plain


def test_a_useless_draft_model_rarely_drafts(models: Models) -> None:
    """None of its first drafts is accepted; after them it gets a few per cent of the time."""
    loop = drafted(models, models.other)
    for i in range(3):
        run(loop, request(i, (1, 50 + i), max_tokens=400))
    figures = loop.stats()
    assert figures.n_model_drafted_tokens < 0.25 * figures.n_generated_tokens
    assert figures.n_steps > 0.95 * figures.n_generated_tokens


def test_lookup_comes_first_if_it_finds_something(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptLookup, "draft", lambda _self, _tokens, most: [60] * min(most, 1))
    loop = drafted(models, models.same)
    run(loop, request(1))
    assert loop.stats().n_model_drafted_tokens == 0 < loop.stats().n_drafted_tokens


@pytest.mark.process  # computes for seconds
@pytest.mark.usefixtures("eager")
def test_drafts_change_no_distribution(models: Models) -> None:
    """The third and fourth tokens of 900 answers to one prompt, with drafts and without, by chi-square."""
    few = dict.fromkeys(range(60, 66), 12.0)
    counts = []
    for draft in (None, models.same):
        loop, seen = drafted(models, draft), Counter[int]()
        for start in range(0, 900, 100):
            shift = 10_000 if draft else 0  # other draws: the same ones would be equal, and say little
            found = run(
                loop,
                *(
                    request(i, (1, 50), max_tokens=6, sampling=SamplingParams(seed=shift + i, logit_bias=few))
                    for i in range(start, start + 100)
                ),
            )
            seen.update(token for tokens in found.values() for token in tokens[2:4])
        counts.append(seen)
        assert (loop.stats().n_model_drafted_tokens > 500) == (draft is not None)
    table = np.array([[each[token] for token in few] for each in counts], float)
    expected = table.sum(0) * table.sum(1)[:, None] / table.sum()
    assert table.sum() > 3500
    assert ((table - expected) ** 2 / expected).sum() < 20.52  # 5 degrees of freedom, 0.1 %


@pytest.mark.usefixtures("eager")
def test_a_long_prompt_is_read_in_portions(models: Models) -> None:
    prompt = (1, *range(60, 310))
    loop = drafted(models, models.same)
    (tokens,) = run(loop, request(1, prompt, max_tokens=60)).values()
    (plain,) = alone(models, request(1, prompt, max_tokens=60)).values()
    assert_same(models.model, prompt, plain, tokens)
    assert loop.stats().n_model_accepted_tokens > 20


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", [{"kv_unified": False, "n_ctx": 1024}, {"n_ctx": 512, "parallel": 2}])
def test_caches_of_every_kind_are_followed(
    models: Models, plan_on_cpu: PlanOnCpu, options: dict[str, Any]
) -> None:
    path = Path(models.model.plan.model.path)
    plan = plan_on_cpu(path, n_outputs_max=24, serving=Serving(cache_reuse=0), **EXACT, **options)
    with loaded(plan) as model, loaded(_beside(plan)) as draft:
        requests = [request(i, (1, 50 + i, *range(100, 130)), max_tokens=30 + i) for i in range(5)]
        loop = Loop(model, draft)
        found = run(loop, *requests)
        figures = loop.stats()
        assert figures.n_model_accepted_tokens > 0.9 * figures.n_model_drafted_tokens > 50
        for each in requests:
            assert isinstance(each.prompt, tuple)
            (plain,) = alone(models, each).values()
            assert_same(models.model, each.prompt, plain, found[each.id])


@pytest.mark.usefixtures("eager")
def test_a_draft_model_with_windows(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    """Tokens outside the window cannot be shared or restored: another sequence is read from its start."""
    path = write_loadable(with_vocabulary(LOADABLE["gemma3"]()), tmp_path / "window.gguf", "F32")
    plan = plan_on_cpu(path, n_ctx=1024, n_ubatch=64, parallel=2, serving=Serving(cache_reuse=0))
    with loaded(plan) as model, loaded(_beside(plan)) as draft:
        assert draft.cells.is_stateful
        prompt = tuple(map(int, np.random.default_rng(2).integers(300, 1100, 300)))
        loop = Loop(model, draft)
        run(loop, request(1, (1, *prompt)), request(2, (1, *prompt[:40])))
        run(loop, request(3, (1, *prompt[:150])))
        figures = loop.stats()
        assert figures.n_model_accepted_tokens > 0.8 * figures.n_model_drafted_tokens > 50


@pytest.mark.usefixtures("eager")
def test_adapters_are_the_models_alone(models: Models, tmp_path: Path) -> None:
    """The draft model has none; it drafts for requests with and without an adapter in turn."""
    path = Path(models.model.plan.model.path)
    lora = write_lora(tmp_path / "lora.gguf", path)
    adapted = Companion(
        kind=CompanionKind.LORA, path=str(lora), name="lora", total_bytes=0, device=None, uses={}, method=""
    )
    with loaded(replace(models.model.plan, companions=(adapted,))) as model:
        answers = []
        for draft in (None, models.same):
            for slot in range(4):
                model.forget(slot)
                models.same.forget(slot)
            loop = Loop(model, draft)
            answers.append(run(loop, request(1, adapters=((0, 1.0),)), request(2, adapters=())))
        assert answers[0] == answers[1]
        assert loop.stats().n_model_accepted_tokens > 10


@pytest.mark.usefixtures("eager")
def test_the_likelihood_of_a_prompt_of_one_token_comes_before_drafts(models: Models) -> None:
    """Its only row also gives the prompt's likelihood; rows of drafts must not be taken for it."""
    given = [request(i, (40 + i,), prompt_logprobs=1, add_bos=False) for i in range(1, 6)]
    plain = [alone(models, each) for each in given]
    loop = drafted(models, models.same)
    run(loop, request(0))  # measures the time of a step
    assert [run(loop, each) for each in given] == plain
