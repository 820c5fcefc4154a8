"""Projectors and adapters that lie in a model's folder, and draft models that are too large."""

import shutil
from pathlib import Path

import pytest

from tests.companions import write_lora, write_mmproj
from tools.random_model import write_llama
from vram_llm.machine.types import Machine
from vram_llm.model.pooling import Pooling
from vram_llm.planner.types import CompanionKind, Plan, Workload
from vram_llm.workflows import planning
from vram_llm.workflows.detection import detect

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def machine() -> Machine:
    return detect(["24GB"])


def kinds(plan: Plan) -> list[CompanionKind]:
    return [each.kind for each in plan.companions]


def test_the_projector_in_the_folder_is_used_unless_it_is_unwanted(tmp_path: Path, machine: Machine) -> None:
    model = str(write_llama(tmp_path / "model.gguf"))
    mmproj = write_mmproj(tmp_path / "model-mmproj-f16.gguf")
    plan = planning.plan(model, machine, Workload(n_ctx=512))
    assert kinds(plan) == [CompanionKind.MMPROJ]
    assert plan.companions[0].path == str(mmproj)
    assert any("`--no-mmproj` leaves it out" in note for note in plan.notes)
    for wish in (Workload(n_ctx=512, find_mmproj=False), Workload(n_ctx=512, pooling=Pooling.MEAN)):
        plan = planning.plan(model, machine, wish)
        assert not plan.companions
        assert not any("mmproj" in note for note in plan.notes)


def test_a_projector_that_may_be_another_models_is_only_named(tmp_path: Path, machine: Machine) -> None:
    model = str(write_llama(tmp_path / "model.gguf"))
    write_mmproj(tmp_path / "mmproj-wide.gguf", n_text=96)
    assert not any("mmproj" in note for note in planning.plan(model, machine, Workload(n_ctx=512)).notes)
    mmproj = write_mmproj(tmp_path / "mmproj.gguf")
    shutil.copy(model, tmp_path / "another.gguf")
    plan = planning.plan(model, machine, Workload(n_ctx=512))
    assert not plan.companions
    assert any(f"`--mmproj {mmproj}` uses it" in note for note in plan.notes)


def test_a_file_that_is_no_projector_is_passed_over(tmp_path: Path, machine: Machine) -> None:
    model = str(write_llama(tmp_path / "model.gguf"))
    (tmp_path / "mmproj.gguf").write_bytes(b"GGUF and nothing more")
    assert not planning.plan(model, machine, Workload(n_ctx=512)).companions


def test_an_adapter_in_the_folder_is_named(tmp_path: Path, machine: Machine) -> None:
    path = write_llama(tmp_path / "model.gguf")
    lora = write_lora(tmp_path / "style-lora.gguf", path)
    plan = planning.plan(str(path), machine, Workload(n_ctx=512))
    assert not plan.companions
    assert any(f"`--lora {lora}` applies it" in note for note in plan.notes)


def test_a_draft_model_as_large_as_its_model_is_named_as_slow(tmp_path: Path, machine: Machine) -> None:
    model = str(write_llama(tmp_path / "model.gguf"))
    plan = planning.plan(model, machine, Workload(n_ctx=512, draft=model))
    assert any("can only slow it down: take a smaller one" in note for note in plan.notes)
