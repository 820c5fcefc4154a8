"""Scaled positions: a load with options computes as a file that asks for the same."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import PlanOnCpu
from tools.random_model import write_llama
from vram_llm.llama.dryrun.client import DryRun
from vram_llm.llama.model import LoadedModel
from vram_llm.model.header_reader import read_header
from vram_llm.planner.rope import Rope, RopeScaling
from vram_llm.planner.types import Plan

pytestmark = pytest.mark.process

PROMPT = [1, *range(20, 220)]
_F32 = gguf.GGMLQuantizationType.F32


def _logits(plan: Plan) -> npt.NDArray[np.float32]:
    model = LoadedModel(plan)
    try:
        row = model.batch.add(PROMPT, 0, 0, n_outputs=1)
        assert model.decode() == 0
        return model.logits(row).copy()
    finally:
        model.close()


def _yarn(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(1024)


@pytest.mark.parametrize(
    ("rope", "of_file"),
    [
        (Rope(freq_base=50_000.0), lambda writer: writer.add_rope_freq_base(50_000.0)),
        (Rope(freq_scale=0.25), lambda writer: writer.add_rope_scaling_factor(4.0)),
        (Rope(scaling=RopeScaling.YARN, freq_scale=0.25, yarn_orig_ctx=1024), _yarn),
    ],
)
def test_options_compute_as_a_file_that_says_the_same(
    rope: Rope, of_file: Callable[[gguf.GGUFWriter], None], plan_on_cpu: PlanOnCpu, tmp_path: Path
) -> None:
    plain = write_llama(tmp_path / "plain.gguf", quant=_F32)
    scaled = write_llama(tmp_path / "scaled.gguf", quant=_F32, more=of_file)
    unscaled, expected = _logits(plan_on_cpu(plain)), _logits(plan_on_cpu(scaled))
    found = _logits(plan_on_cpu(plain, rope=rope))
    assert found == pytest.approx(expected, abs=1e-4)
    assert np.abs(expected - unscaled).max() > 0.01


@pytest.mark.parametrize("name", ["yarn_ext_factor", "yarn_attn_factor", "yarn_beta_slow", "yarn_beta_fast"])
def test_each_number_of_yarn_changes_the_answer(name: str, plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    plain = write_llama(tmp_path / "plain.gguf", quant=_F32)
    yarn = {"scaling": RopeScaling.YARN, "freq_scale": 0.25, "yarn_orig_ctx": 1024, "yarn_ext_factor": 0.5}
    if name == "yarn_attn_factor":  # llama.cpp computes it itself unless the other is 0
        yarn["yarn_ext_factor"] = 0.0
    before = _logits(plan_on_cpu(plain, rope=Rope(**yarn)))  # type: ignore[arg-type]  # the values are mixed
    changed = Rope(**{**yarn, name: 2.0})  # type: ignore[arg-type]  # the same
    assert np.abs(_logits(plan_on_cpu(plain, rope=changed)) - before).max() > 1e-4


def test_a_dry_run_takes_the_same_parameters(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "plain.gguf")
    plan = plan_on_cpu(path, rope=Rope(scaling=RopeScaling.YARN, freq_scale=0.5), n_ctx=8192)
    assert plan.host is not None
    model = LoadedModel(plan)
    try:
        assert model.n_ctx_train == 8192
        held = model.memory_use()["host"]
    finally:
        model.close()
    with DryRun() as dry:
        meter = dry.meter(read_header(path), plan.context, [], plan.host, 0)
        assert meter(plan.placement).host.context_bytes == held.context_bytes
