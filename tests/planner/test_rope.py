"""The context length of models whose positions are scaled."""

from dataclasses import replace
from pathlib import Path

import click
import pytest

from tests import zoo
from tests.cli.typed import typed
from vram_llm.machine.detect import what_if
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.model.rope_facts import RopeFacts
from vram_llm.planner.export.formats import emit, from_json, to_json
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.rope import AS_IN_FILE, Rope, RopeScaling, with_rope
from vram_llm.planner.types import Workload


@pytest.fixture
def model(tmp_path: Path) -> ModelProfile:
    found = profile(read_header(zoo.write(zoo.llama(), tmp_path / "8b.gguf")))
    return replace(found, context_length=8192)


_YARN = RopeFacts("yarn", 0.25, 2048)


@pytest.mark.parametrize(
    ("facts", "rope", "n_ctx"),
    [
        (RopeFacts(), AS_IN_FILE, 8192),
        (RopeFacts(), Rope(freq_scale=0.25), 32_768),
        (RopeFacts("linear", 0.5), Rope(freq_scale=0.25), 16_384),
        (RopeFacts("linear", 0.5), Rope(scaling=RopeScaling.NONE), 8192),
        (RopeFacts(), Rope(freq_base=1e6), 8192),
        (RopeFacts(), Rope(scaling=RopeScaling.YARN, freq_scale=0.25), 32_768),
        (RopeFacts(), Rope(scaling=RopeScaling.YARN, freq_scale=0.25, yarn_orig_ctx=4096), 16_384),
        (_YARN, AS_IN_FILE, 8192),
        (_YARN, Rope(freq_scale=0.125), 16_384),  # llama.cpp: the original context over the scale
        (_YARN, Rope(freq_scale=0.25), 8192),
        (RopeFacts("longrope", 1.0, 4096), Rope(freq_scale=0.5), 8192),
    ],
)
def test_the_extended_length(model: ModelProfile, facts: RopeFacts, rope: Rope, n_ctx: int) -> None:
    assert with_rope(replace(model, rope=facts), rope).context_length == n_ctx


@pytest.mark.parametrize(("n_ctx", "largest", "planned"), [(0, False, 32_768), (None, True, 32_768)])
def test_the_trained_and_the_largest_context_are_the_extended_ones(
    model: ModelProfile, n_ctx: int | None, largest: bool, planned: int
) -> None:
    wish = Workload(n_ctx=n_ctx, largest_ctx=largest, rope=Rope(freq_scale=0.25))
    plan = make_plan(with_rope(model, wish.rope), what_if(["H100"]), wish, compares=False)
    assert plan.context.n_ctx == planned
    assert not any("longer than" in note for note in plan.notes)
    assert from_json(to_json(plan), "a plan") == plan


def test_flags_and_exports() -> None:
    flags = (
        "--rope-scaling yarn --rope-scale 4 --rope-freq-base 1e6 --yarn-orig-ctx 4096 --yarn-ext-factor 0.5 "
        "--yarn-attn-factor 0.9 --yarn-beta-slow 2 --yarn-beta-fast 16"
    )
    rope = typed(*flags.split()).rope
    assert rope == Rope(
        scaling=RopeScaling.YARN, freq_scale=0.25, freq_base=1e6, yarn_orig_ctx=4096, yarn_ext_factor=0.5,
        yarn_attn_factor=0.9, yarn_beta_slow=2.0, yarn_beta_fast=16.0,
    )  # fmt: skip


def test_the_factor_and_its_inverse_are_one_setting() -> None:
    assert typed("--rope-freq-scale", "0.5").rope == typed("--rope-scale", "2").rope
    with pytest.raises(click.UsageError, match="--rope-scale and --rope-freq-scale set the same"):
        typed("--rope-freq-scale", "0.5", "--rope-scale", "2")


def test_exports_have_the_same_flags(model: ModelProfile) -> None:
    rope = Rope(scaling=RopeScaling.YARN, freq_scale=0.25, yarn_orig_ctx=8192)
    plan = make_plan(model, what_if(["H100"]), Workload(n_ctx=16_384, rope=rope), compares=False)
    command = " ".join(emit(plan, "llama-server").split())
    assert "--rope-scaling yarn \\ --rope-freq-scale 0.25 \\ --yarn-orig-ctx 8192" in command
    script = emit(plan, "llama-cpp-python")
    assert (
        "params.rope_scaling_type = C.LLAMA_ROPE_SCALING_TYPE_YARN\nparams.rope_freq_scale = 0.25\n" in script
    )
    compile(script, "script", "exec")
