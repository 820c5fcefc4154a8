"""Answers of every kind with an MTP head and without: the same tokens, texts and likelihoods."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    text_of,
    tokens_of,
)
from tests.engine.harness import run as run_all
from tests.engine.rounding import assert_same
from tests.zoo.heads import HEADS, write_agreeing
from tests.zoo.loadable import with_vocabulary, write_loadable
from tests.zoo.more_heads import MORE_HEADS
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, Grammar, GrammarKind, Request, SamplingParams, TokenEvent
from vram_llm.engine.speculative.draft_budget import DraftCostModel
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.llama.cells import MAX_SLOTS
from vram_llm.llama.model import LoadedModel
from vram_llm.planner.types import BackendSampling, Companion, CompanionKind, Serving

PROMPT = (1, *(3 + i * i % 200 for i in range(40)))
Answers = dict[str, list[TokenEvent]]


@pytest.fixture(scope="module", params=HEADS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose head mostly agrees, so that drafts are accepted and rejected."""
    return write_agreeing(
        with_vocabulary(HEADS[request.param]()), tmp_path_factory.mktemp("answers") / "model.gguf"
    )


@pytest.fixture(scope="module")
def model(path: Path, plan_on_cpu: PlanOnCpu) -> Iterator[LoadedModel]:
    with with_head(plan_on_cpu, path) as model:
        yield model


def with_head(plan_on_cpu: PlanOnCpu, path: Path, **options: Any) -> Any:
    """The model at `path`, loaded with its head."""
    given = {
        "n_outputs_max": 24, "serving": Serving(cache_reuse=16, slots_ram_bytes=2**26), **EXACT, **options
    }  # fmt: skip
    companions = given.pop("companions", ())
    plan = plan_on_cpu(path, **given)
    context = replace(plan.context, n_mtp=3)
    return loaded(replace(plan, context=context, companions=companions))


@pytest.fixture(autouse=True)
def no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the head drafts."""
    monkeypatch.setattr(PromptLookup, "draft", lambda *_: [])


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft at any cost: a test must not depend on the speed of the machine."""
    monkeypatch.setattr(DraftCostModel, "length", lambda _self, _acceptance_rate, most: min(most, 3))


def request(number: int, prompt: tuple[int, ...] = PROMPT, **options: Any) -> Request:
    return make_request(f"r{number}", prompt, **{"max_tokens": 30, **options})


def loop_of(model: LoadedModel, *, drafts: bool = True) -> Loop:
    """A loop over the model with empty caches."""
    assert model.mtp_head is not None
    context = model.plan.context
    shares = context.kv_unified and not model.cells.is_stateful  # else the cache has no more sequences
    for slot in range(MAX_SLOTS if shares else context.parallel):
        model.forget(slot)
    for slot in range(context.parallel):
        model.mtp_head.cells.forget(slot)
    loop = Loop(model)
    if not drafts:
        loop._draft_scheduler._drafter = None
    return loop


def run(loop: Loop, *requests: Request) -> Answers:
    return run_all(loop, *requests, steps=full_steps)


def both(model: LoadedModel, *requests: Request) -> tuple[Answers, Answers]:
    """The events of requests that run together, without drafts and with them; some are accepted."""
    plain = run(loop_of(model, drafts=False), *requests)
    loop = loop_of(model)
    drafted = run(loop, *requests)
    assert loop.stats().n_model_drafted_tokens > 0
    return plain, drafted


def alike(found: Answers) -> dict[str, tuple[list[int], str, FinishReason | None]]:
    """Tokens, text and end of each answer."""
    return {
        name: (tokens_of(events), text_of(events), events[-1].finish_reason) for name, events in found.items()
    }


GRAMMAR = Grammar(kind=GrammarKind.REGEX, text="( w[0-9]+){20,60}", field="guided_regex")
SCHEMA = Grammar(
    kind=GrammarKind.JSON_SCHEMA,
    text=json.dumps(
        {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
            "required": ["name", "age"],
        }
    ),
    field="response_format",
)


@pytest.mark.parametrize(
    "options",
    [
        {"grammar": GRAMMAR, "ignore_eos": False},
        {"grammar": SCHEMA, "ignore_eos": False, "max_tokens": 60},
        {"min_tokens": 12, "ignore_eos": False},
        {"sampling": SamplingParams(seed=3, temperature=0.4, repeat_penalty=1.3, presence_penalty=0.5)},
        {"sampling": SamplingParams(seed=3, temperature=0.4, dry_multiplier=0.8)},
        {"sampling": SamplingParams(seed=3, temperature=0.4, typical_p=0.9, top_n_sigma=2.0)},
        {"sampling": SamplingParams(temperature=0, logit_bias={310: 5.0, 320: 5.0})},
    ],
    ids=["regex", "schema", "min_tokens", "penalties", "dry", "typical", "bias"],
)
def test_answers_of_every_kind_are_the_same(model: LoadedModel, options: dict[str, Any]) -> None:
    plain, drafted = both(model, request(1, **options))
    assert alike(drafted) == alike(plain)


def test_likelihoods_are_the_same(model: LoadedModel) -> None:
    plain, drafted = both(model, request(1, logprobs=3))
    assert alike(drafted) == alike(plain)
    for one, other in zip(likelihoods(plain), likelihoods(drafted), strict=True):
        assert other == pytest.approx(one, abs=1e-3)


def likelihoods(found: Answers) -> list[float | None]:
    """Those of the likeliest tokens at each place of the answer."""
    return [token.logprob for event in found["r1"] for each in event.logprobs or () for token in each.top]


def test_a_stop_word_ends_the_answer_at_the_same_place(model: LoadedModel) -> None:
    """It may lie in the middle of an accepted draft: the tokens after it are not shown, nor kept."""
    plain = run(loop_of(model, drafts=False), request(1))
    words = text_of(plain["r1"]).split()
    assert len(words) > 12
    for word in dict.fromkeys(words[4:12]):
        with_stop = request(2, stop=(word,))
        without, drafted = both(model, with_stop)
        assert alike(drafted) == alike(without)
        assert drafted["r2"][-1].finish_reason is FinishReason.STOP


def test_several_answers_to_one_prompt(model: LoadedModel) -> None:
    """As for n = 4: with seeds of their own, the prompt computed once."""
    given = [
        request(i, sampling=SamplingParams(seed=10 + i, temperature=0.3), n=4 if i == 0 else 0)
        for i in range(4)
    ]
    plain, drafted = both(model, *given)
    assert alike(drafted) == alike(plain)


def test_a_full_context_ends_an_answer_at_the_same_token(path: Path, plan_on_cpu: PlanOnCpu) -> None:
    with with_head(plan_on_cpu, path, n_ctx=256, parallel=1, n_outputs_max=8) as model:
        given = request(1, PROMPT * 5, max_tokens=None)
        plain, drafted = both(model, given)
        assert alike(drafted) == alike(plain)
        assert drafted["r1"][-1].finish_reason is FinishReason.LENGTH


def test_streams_that_outgrow_the_cache_are_preempted_and_go_on(model: LoadedModel) -> None:
    given = [request(i, (1, *range(300 + 20 * i, 320 + 20 * i)), max_tokens=130) for i in range(4)]
    loop = loop_of(model)
    found = run(loop, *given)
    assert loop.stats().n_preemptions > 0
    assert loop.stats().n_model_drafted_tokens > 50
    for each in given:
        assert isinstance(each.prompt, tuple)
        (plain,) = run(loop_of(model, drafts=False), each).values()
        assert_same(model, each.prompt, tokens_of(plain), tokens_of(found[each.id]))


def test_cancelled_in_the_middle(model: LoadedModel) -> None:
    loop = loop_of(model)
    for i in range(3):
        assert loop.submit(request(i, (1, 300 + i, 310, 320), max_tokens=200)) is None
    for _ in range(6):
        full_step(loop)
    for name in ("r1", "r0"):
        loop.cancel(name)
    tokens: list[int] = []
    assert loop.submit(request(9)) is None
    while not loop.is_idle:
        for event in full_step(loop):
            assert event.id in ("r2", "r9")
            tokens += event.token_ids if event.id == "r9" else ()
            if event.id == "r9" and event.finish_reason is not None:
                loop.cancel("r2")
    (plain,) = run(loop_of(model, drafts=False), request(9)).values()
    assert_same(model, PROMPT, tokens_of(plain), tokens)


def test_an_answer_that_ended_with_rejected_drafts_is_continued(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer answer to the same prompt holds its tokens too; a third request branches off elsewhere."""
    plain = run(loop_of(model, drafts=False), request(1, max_tokens=40))
    tokens = tokens_of(plain["r1"])
    ends = (tokens[17],)
    again = (*PROMPT, *tokens[: tokens.index(ends[0])], 301, 302, 303)
    without = run(loop_of(model, drafts=False), request(3, again))
    loop = loop_of(model)
    head = model.mtp_head
    assert head is not None
    monkeypatch.setattr(head, "likeliest", lambda *_: 700)  # never the model's token
    run(loop, request(1, max_tokens=40, stop_token_ids=ends))
    run(loop, request(2, max_tokens=40))
    found = run(loop, request(3, again))
    assert tokens_of(found["r3"]) == tokens_of(without["r3"])
    assert loop.stats().n_accepted_tokens == 0 < loop.stats().n_drafted_tokens


@pytest.mark.parametrize("where", [BackendSampling.ON, BackendSampling.OFF])
def test_tokens_sampled_on_the_device(path: Path, plan_on_cpu: PlanOnCpu, where: BackendSampling) -> None:
    with with_head(plan_on_cpu, path, backend_sampling=where) as model:
        given = [
            request(0),
            request(1, sampling=SamplingParams(seed=5, temperature=0.3, top_k=40)),
            request(2, grammar=GRAMMAR, ignore_eos=False),
        ]
        plain, drafted = both(model, *given)
        assert alike(drafted) == alike(plain)
        loop = loop_of(model)
        run(loop, *given)
        assert (loop.stats().n_device_tokens > 0) == (where is BackendSampling.ON)


def test_adapters_are_the_models_alone(path: Path, plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "lora.gguf", path)
    adapted = Companion(
        kind=CompanionKind.LORA, path=str(lora), name="lora", total_bytes=0, device=None, uses={}, method=""
    )
    with with_head(plan_on_cpu, path, companions=(adapted,)) as model:
        plain, drafted = both(model, request(1, adapters=((0, 1.0),)), request(2, adapters=()))
        assert alike(drafted) == alike(plain)
        assert tokens_of(plain["r1"]) != tokens_of(plain["r2"])


@pytest.mark.parametrize("options", [{"kv_unified": False, "n_ctx": 1024}, {"n_ctx": 512, "parallel": 2}])
def test_caches_of_every_kind(path: Path, plan_on_cpu: PlanOnCpu, options: dict[str, Any]) -> None:
    with with_head(plan_on_cpu, path, **options) as model:
        given = [request(i, (1, 300 + i, *range(400, 430)), max_tokens=20 + i) for i in range(5)]
        plain, drafted = both(model, *given)
        for each in given:
            assert isinstance(each.prompt, tuple)
            assert_same(model, each.prompt, tokens_of(plain[each.id]), tokens_of(drafted[each.id]))


@pytest.mark.parametrize("name", MORE_HEADS)
@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(seed=4, temperature=0.3)])
def test_heads_of_other_architectures(
    name: str, sampling: SamplingParams, plan_on_cpu: PlanOnCpu, tmp_path: Path
) -> None:
    """With windows, on Mamba, with latent attention; random weights, so that most drafts are rejected."""
    written = write_loadable(with_vocabulary(MORE_HEADS[name]()), tmp_path / "model.gguf", "F32")
    with with_head(plan_on_cpu, written) as model:
        plain, drafted = both(model, request(1, sampling=sampling), request(2, PROMPT[:9], sampling=sampling))
        assert alike(drafted) == alike(plain)
