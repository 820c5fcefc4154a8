"""Measured speeds in terminals of any width."""

from dataclasses import replace

import pytest

from tests.conftest import PlanOnCpu
from vram_llm.cli.speed_tables import print_records, print_results
from vram_llm.machine.calibration_store import CalibrationRecord, TypeRecord
from vram_llm.planner.measured_speed import MeasuredSpeed

RECORD = CalibrationRecord(
    name="NVIDIA GeForce RTX 4080 Laptop GPU",
    read_bytes_per_s=390e9,
    layer_overhead_s=12e-6,
    step_overhead_s=250e-6,
    row_flops_per_s=21_500e9,
    prompt_flops_per_s=None,
    split_s=45e-6,
    expert_read_share=0.8,
    attention_flops_per_s=17e9,
    types={"Q4_K": TypeRecord(read_bytes_per_s=9.9e9, row_flops_per_s=45e9, prompt_flops_per_s=210e9)},
    threads=6,
    residual=0.03,
    measured_at="2026-11-20T10:00:00Z",
    vram_llm="0.1.0",
    llama_cpp_python="0.3.36",
)


@pytest.mark.parametrize("columns", [40, 71, 72, 120])
def test_every_figure_is_whole_and_no_line_too_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_records({RECORD.name: RECORD})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    words = {word for line in lines for word in line.split()}
    assert {"split", "45", "Q4_K", "9.9", "threads:", "80%"} <= words
    assert {"read", "390", "layer", "12", "step", "250", "row", "21,500", "fit", "±3%"} <= words
    down = [line.split() for line in lines if line.startswith("  ") and len(line.split()) == 2]
    assert (["prompt", "-"] in down) is (columns < 72)


@pytest.mark.parametrize("n_mtp", [0, 3])
def test_measured_steps_of_a_model_with_a_head_are_without_drafts(
    plan_on_cpu: PlanOnCpu, capsys: pytest.CaptureFixture[str], n_mtp: int
) -> None:
    plan = plan_on_cpu()
    plan = replace(plan, context=replace(plan.context, n_mtp=n_mtp))
    measured = MeasuredSpeed(
        test="tg128",
        rounds_tokens_per_s=(30.0,),
        tokens_per_s=30.0,
        expected_tokens_per_s=None,
        basis=None,
    )
    print_results(plan, [measured])
    told = "without drafts, whose gain depends on the text" in " ".join(capsys.readouterr().out.split())
    assert told == (n_mtp > 0)
