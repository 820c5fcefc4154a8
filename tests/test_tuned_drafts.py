"""`tune` of models with an MTP head or a draft model: text is measured, and what is kept drafts or not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.zoo.heads import glm4_moe, write_agreeing
from tests.zoo.loadable import with_vocabulary
from vram_llm.engine import generation_speed
from vram_llm.engine.generation_speed import GenerationMeasurement, GenerationRequest
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.machine import calibration_store
from vram_llm.machine.json_store import DATA_DIR_VARIABLE
from vram_llm.machine.types import Machine
from vram_llm.planner.mtp import AUTO, MTP, NO_DRAFT
from vram_llm.planner.types import CompanionKind, FlashAttention, Plan, Workload
from vram_llm.workflows import detection, planning
from vram_llm.workflows.tuning.results import TuneResult
from vram_llm.workflows.tuning.run import tune

pytestmark = pytest.mark.process

WISH = Workload(
    n_ctx=512, parallel=1, reserve_bytes=0, expect_depth=64, n_gpu_layers=0, n_ubatch=128, n_threads=1,
    flash_attn=FlashAttention.ON,
)  # fmt: skip
"""Only drafts are left to choose."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with a head that predicts its tokens."""
    path = tmp_path_factory.mktemp("drafting") / "agreeing.gguf"
    return str(write_agreeing(with_vocabulary(glm4_moe(2)), path, sharpness=7))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A draft model for it."""
    path = tmp_path_factory.mktemp("drafting") / "small.gguf"
    return str(write_agreeing(with_vocabulary(glm4_moe(1)), path, sharpness=7))


@pytest.fixture(scope="module")
def machine() -> Machine:
    return detection.detect()


@pytest.fixture(scope="module")
def dry() -> Iterator[DryRun]:
    with planning.dry_run() as asked:
        yield asked


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    return tmp_path


class ScriptedText:
    """In place of the child process: text is written faster with drafts, or without, whatever the clock."""

    def __init__(self, *, drafts_pay: bool) -> None:
        self.drafts_pay = drafts_pay
        self.requests: list[GenerationRequest] = []

    def __call__(self, request: GenerationRequest, on_progress: object = None) -> GenerationMeasurement:
        self.requests.append(request)
        drafts = has_drafts(request.plan)
        token_s = 0.010 if drafts == self.drafts_pay else 0.012
        n_drafted = 100 if drafts else 0
        return GenerationMeasurement(0.01, request.prompt_tokens, 0.001, token_s, n_drafted, n_drafted // 2)


def has_drafts(plan: Plan) -> bool:
    return bool(plan.context.n_mtp) or any(each.kind is CompanionKind.DRAFT for each in plan.companions)


def tuned(
    model: str, machine: Machine, monkeypatch: pytest.MonkeyPatch, draft: str | None, *, drafts_pay: bool
) -> tuple[TuneResult, ScriptedText]:
    text = ScriptedText(drafts_pay=drafts_pay)
    monkeypatch.setattr(generation_speed, "measure_generation", text)
    return tune(model, machine, replace(WISH, draft=draft), minutes=0.1), text


@pytest.mark.parametrize("draft", [None, AUTO])
def test_a_head_that_pays_is_kept(
    model: str,
    machine: Machine,
    dry: DryRun,
    own_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    draft: str | None,
) -> None:
    result, text = tuned(model, machine, monkeypatch, draft, drafts_pay=True)
    assert result.by_generation
    assert {has_drafts(request.plan) for request in text.requests} == {True, False}
    after = planning.plan(model, machine, replace(WISH, draft=draft), dry)
    assert has_drafts(after)
    assert after.notes[0] == result.kept
    assert not has_drafts(planning.plan(model, machine, replace(WISH, draft=NO_DRAFT), dry))
    assert not calibration_store.read()[0]  # the times are of text, not of steps


def test_the_pairs_of_a_pass_write_the_same_text(
    model: str, machine: Machine, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, text = tuned(model, machine, monkeypatch, None, drafts_pay=True)
    (head,) = [row for row in result.rows if row.accepted is not None]
    assert (head.name, head.accepted) == ("with the MTP head", 0.5)
    assert result.gain == pytest.approx(0.2, abs=0.02)
    asked: dict[bool, list[tuple[int, int, int]]] = {True: [], False: []}
    for each in text.requests[1:]:  # after the first load, which does not count
        asked[has_drafts(each.plan)].append((each.first_text, each.n_texts, each.n_tokens))
    assert asked[True] == asked[False]
    assert len(set(asked[True])) == len(asked[True])


def test_a_head_that_does_not_pay_is_left_out(
    model: str, machine: Machine, dry: DryRun, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = tuned(model, machine, monkeypatch, None, drafts_pay=False)
    assert result.gain is None
    after = planning.plan(model, machine, WISH, dry)
    assert not has_drafts(after)
    assert after.notes[0].endswith("the prediction's choice")


@pytest.mark.parametrize("draft", [MTP, NO_DRAFT])
def test_what_the_user_says_of_drafts_stays(
    model: str, machine: Machine, own_store: Path, monkeypatch: pytest.MonkeyPatch, draft: str
) -> None:
    result, text = tuned(model, machine, monkeypatch, draft, drafts_pay=draft != MTP)
    assert not result.had_choice
    assert not text.requests


def test_a_draft_model_is_measured_against_none(
    model: str,
    small: str,
    machine: Machine,
    dry: DryRun,
    own_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result, text = tuned(model, machine, monkeypatch, small, drafts_pay=False)
    assert result.winner == "without drafts"
    assert {has_drafts(request.plan) for request in text.requests} == {True, False}
    after = planning.plan(model, machine, replace(WISH, draft=small), dry)
    assert not has_drafts(after)
    assert "20% over the prediction's choice" in after.notes[0]


def test_a_real_run(model: str, machine: Machine, dry: DryRun, own_store: Path) -> None:
    result = tune(model, machine, WISH, minutes=0.1)
    assert {row.name for row in result.rows if row.tokens_per_s} == {"CPU:3", "with the MTP head"}
    assert result.n_pairs >= 2
    assert has_drafts(planning.plan(model, machine, WISH, dry)) == (result.gain is not None)
