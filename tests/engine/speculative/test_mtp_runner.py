"""A model's own MTP head changes the speed of answers, and not their tokens."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, GREEDY, full_steps, loaded, make_request, tokens_of
from tests.engine.harness import run as run_all
from tests.engine.rounding import assert_same
from tests.zoo.heads import HEADS, write_agreeing
from tests.zoo.loadable import with_vocabulary, write_loadable
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import Request, SamplingParams
from vram_llm.engine.speculative.draft_budget import DraftCostModel
from vram_llm.engine.speculative.mtp_runner import _Slot
from vram_llm.engine.speculative.prompt_lookup import PromptLookup
from vram_llm.engine.speculative.row_cost import RowCost
from vram_llm.llama.cells import MAX_SLOTS
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.mtp_head import HiddenStates
from vram_llm.planner.types import Serving

PROMPT = (1, *(3 + i * i % 200 for i in range(40)))


@pytest.fixture(scope="module", params=HEADS)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["agrees", "random"])
def model(
    request: pytest.FixtureRequest,
    architecture: str,
    plan_on_cpu: PlanOnCpu,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LoadedModel]:
    """A model with a head: one that agrees with the model, or one with random weights."""
    path = tmp_path_factory.mktemp("heads") / f"{request.param}.gguf"
    shape = with_vocabulary(HEADS[architecture]())
    write_agreeing(shape, path) if request.param == "agrees" else write_loadable(shape, path, "F32")
    plan = plan_on_cpu(
        path, n_outputs_max=24, serving=Serving(cache_reuse=16, slots_ram_bytes=2**26), **EXACT
    )
    with loaded(replace(plan, context=replace(plan.context, n_mtp=3))) as model:
        yield model


@pytest.fixture(autouse=True)
def no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the head drafts."""
    monkeypatch.setattr(PromptLookup, "draft", lambda *_: [])


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft at any cost: a test must not depend on the speed of the machine."""
    monkeypatch.setattr(DraftCostModel, "length", lambda _self, _acceptance_rate, most: min(most, 3))


def request(number: int, prompt: tuple[int, ...] = PROMPT, **options: object) -> Request:
    return make_request(f"r{number}", prompt, **{"max_tokens": 30, **options})


def loop_of(model: LoadedModel, *, drafts: bool = True) -> Loop:
    """A loop over the model with empty caches."""
    assert model.mtp_head is not None
    for slot in range(MAX_SLOTS if not model.cells.is_stateful else 4):
        model.forget(slot)
    for slot in range(4):
        model.mtp_head.cells.forget(slot)
    loop = Loop(model)
    if not drafts:
        loop._draft_scheduler._drafter = None
    return loop


def run(loop: Loop, *requests: Request) -> dict[str, list[int]]:
    """The tokens of each request; all run together."""
    return {name: tokens_of(events) for name, events in run_all(loop, *requests, steps=full_steps).items()}


def agrees(model: LoadedModel) -> bool:
    return "agrees" in model.plan.model.path


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "sampling",
    [GREEDY, SamplingParams(seed=4, temperature=0.3), SamplingParams(seed=7, top_k=30, repeat_penalty=1.2)],
    ids=lambda sampling: f"seed {sampling.seed}",
)
def test_the_head_changes_no_answer(model: LoadedModel, sampling: SamplingParams) -> None:
    """With these seeds, rounding changes no draw."""
    plain = run(loop_of(model, drafts=False), request(1, sampling=sampling))
    loop = loop_of(model)
    events = run_all(loop, request(1, sampling=sampling), steps=full_steps)["r1"]
    assert tokens_of(events) == plain["r1"]
    figures = loop.stats()
    assert events[-1].drafted_tokens == figures.n_drafted_tokens
    assert events[-1].accepted_tokens >= figures.n_accepted_tokens  # a draft may go beyond the answer's end
    assert figures.n_model_drafted_tokens == figures.n_drafted_tokens > 10
    assert figures.n_model_accepted_tokens == figures.n_accepted_tokens
    if agrees(model) and sampling is GREEDY:
        assert figures.n_accepted_tokens > 0.7 * figures.n_drafted_tokens
        assert figures.n_steps < 16


@pytest.mark.usefixtures("eager")
def test_several_streams_come_and_go(model: LoadedModel) -> None:
    """More than slots, of unequal lengths, some with a common beginning."""
    prompts = [PROMPT[: 5 + 6 * i] if i % 2 else (1, *range(20 + i, 60 + i)) for i in range(7)]
    requests = [request(i, prompt, max_tokens=8 + 2 * i) for i, prompt in enumerate(prompts)]
    plain = run(loop_of(model, drafts=False), *requests)
    loop = loop_of(model)
    drafted = run(loop, *requests)
    for i, prompt in enumerate(prompts):
        assert_same(model, prompt, plain[f"r{i}"], drafted[f"r{i}"])
    assert loop.stats().n_model_drafted_tokens > 20
    assert not agrees(model) or loop.stats().n_accepted_tokens > 20


@pytest.mark.usefixtures("eager")
def test_drafts_go_on_after_a_reused_prefix(model: LoadedModel) -> None:
    """The second turn of a chat, and the same question in another slot while the first runs."""
    loop = loop_of(model)
    (first,) = run(loop, request(1)).values()
    again = (*PROMPT, *first[:-1], 9, 8, 7)
    before = loop.stats()
    second = run(loop, request(2, again), request(3, again))
    plain = run(loop_of(model, drafts=False), request(2, again))
    for tokens in second.values():
        assert_same(model, again, plain["r2"], tokens)
    after = loop.stats()
    n_drafted = after.n_model_drafted_tokens - before.n_model_drafted_tokens
    n_accepted = after.n_model_accepted_tokens - before.n_model_accepted_tokens
    assert not agrees(model) or n_accepted > 0.6 * n_drafted > 0


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft token costs a third of a token, and a step 10 ms, whatever the speed of the machine."""
    earn, spend = DraftCostModel.earn, DraftCostModel.spend
    monkeypatch.setattr(DraftCostModel, "_price", property(lambda _: 1 / 3))
    monkeypatch.setattr(DraftCostModel, "earn", lambda cost, _, n=1: earn(cost, n * 0.010, n))
    monkeypatch.setattr(DraftCostModel, "spend", lambda cost, n, _: spend(cost, n, 0.001))
    monkeypatch.setattr(RowCost, "step_s", property(lambda _: 0.010))
    monkeypatch.setattr(RowCost, "row_s", property(lambda _: 0.002))


class HeadRuns:
    """Counts the batches of a model's head."""

    def __init__(self, model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 0
        assert model.mtp_head is not None
        monkeypatch.setattr(model.mtp_head, "note_batch", self._note)

    def _note(self, _: int) -> None:
        self.n += 1


@pytest.mark.usefixtures("cheap")
def test_a_head_that_never_agrees_rests_in_later_requests(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It computes nothing then, and the model gives no hidden states; steps are steady."""
    loop, runs = loop_of(model), HeadRuns(model, monkeypatch)
    first = run_all(loop, request(1, max_tokens=20))
    if agrees(model):
        assert runs.n > 8
        return
    assert 0 < loop.stats().n_model_drafted_tokens < 6
    n_runs, n_noted = runs.n, 0
    note_states = _Slot.note_states

    def note(slot: _Slot, position: int, states: HiddenStates) -> None:
        nonlocal n_noted
        n_noted += 1
        note_states(slot, position, states)

    monkeypatch.setattr(_Slot, "note_states", note)
    later = [run_all(loop, request(i, max_tokens=8)) for i in (2, 3)]
    assert (runs.n, n_noted) == (n_runs, 0)
    assert all(tokens_of(*events.values()) == tokens_of(first["r1"])[:8] for events in later)
    run_all(loop, request(4, max_tokens=300))
    assert n_runs < runs.n < n_runs + 6  # trials
    assert loop.stats().n_model_drafted_tokens < 12


@pytest.mark.usefixtures("cheap")
def test_a_head_that_agrees_again_drafts_again(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins anew in the middle of an answer, with the tokens before the trial."""
    if not agrees(model):
        pytest.skip("this head never agrees")
    plain = run(loop_of(model, drafts=False), request(1, max_tokens=300))
    loop = loop_of(model)
    costs = loop._costs.drafts
    assert costs is not None
    for _ in range(40):
        costs.observe(1, 0)
    tokens = {"r1": tokens_of(run_all(loop, request(1, max_tokens=300))["r1"])}
    assert tokens == plain
    figures = loop.stats()
    assert figures.n_accepted_tokens > 60
    assert figures.n_accepted_tokens > 0.6 * figures.n_drafted_tokens


def test_lookup_drafts_no_more_than_states_can_be_taken_back(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(loop_of(model, drafts=False), request(1))
    monkeypatch.setattr(PromptLookup, "draft", lambda _self, tokens, most: [tokens[-1]] * min(most, 9))
    loop = loop_of(model)
    assert run(loop, request(1)) == plain
    figures = loop.stats()
    most = 3 if model.cells.is_stateful else 9
    assert figures.n_drafted_tokens <= most * figures.n_drafts
