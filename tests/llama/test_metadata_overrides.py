"""Overrides of metadata in a load and in a dry run."""

import dataclasses
from pathlib import Path

import pytest

from tests.conftest import PlanOnCpu
from tests.zoo.loadable import qwen3_moe, write_loadable
from vram_llm.errors import BadPlan
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Host
from vram_llm.model.header_reader import read_header
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.model.metadata_overrides import with_overrides
from vram_llm.planner.types import Plan
from vram_llm.workflows import saved_plans

pytestmark = pytest.mark.process

USED = MetadataOverride("qwen3moe.expert_used_count", 1)


def _with(plan: Plan, *overrides: MetadataOverride) -> Plan:
    return dataclasses.replace(plan, model=dataclasses.replace(plan.model, kv_overrides=overrides))


def test_llama_cpp_loads_with_the_values(plan_on_cpu: PlanOnCpu, tiny_model: Path) -> None:
    plan = _with(
        plan_on_cpu(),
        MetadataOverride("llama.context_length", 1024),
        MetadataOverride("llama.rope.freq_base", 50_000.0),
        MetadataOverride("tokenizer.ggml.add_bos_token", False),
        MetadataOverride("general.architecture", "llama"),
    )
    model = LoadedModel(plan)
    try:
        assert model.n_ctx_train == 1024
        assert not model.vocab.adds_bos
    finally:
        model.close()


def test_a_dry_run_measures_what_a_load_holds(tmp_path: Path, host: Host, plan_on_cpu: PlanOnCpu) -> None:
    path = write_loadable(qwen3_moe(), tmp_path / "moe.gguf")
    header = read_header(path)
    plan = plan_on_cpu(path)
    held, measured = [], []
    for overrides in ((), (USED,)):
        model = LoadedModel(_with(plan, *overrides))
        held.append(model.memory_use()["host"])
        model.close()
        with DryRun() as dry:
            meter = dry.meter(with_overrides(header, overrides), plan.context, [], host, 0)
            measured.append(meter(plan.placement).host)
    assert [use.compute_bytes for use in held] == [use.compute_bytes for use in measured]
    assert held[0].compute_bytes != held[1].compute_bytes


def test_a_saved_plan_is_checked_with_them(tmp_path: Path, plan_on_cpu: PlanOnCpu) -> None:
    path = write_loadable(qwen3_moe(), tmp_path / "moe.gguf")
    plan = _with(plan_on_cpu(path), USED)
    assert saved_plans.profile_of(plan).n_expert_used == 1
    wrong = _with(plan, MetadataOverride(USED.key, "one"))
    with pytest.raises(BadPlan, match="the file has a value of type int"):
        saved_plans.profile_of(wrong)
