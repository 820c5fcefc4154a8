"""The report of a plan whose experts are partly on the host."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import zoo
from tests.cli.typed import typed
from tests.planner.cases import machine, profile_of, speed, with_speeds
from vram_llm.cli.plan_details import details
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.report.reasons import why
from vram_llm.planner.report.text import body, head
from vram_llm.planner.types import Alternative, Plan
from vram_llm.text.lines import plain
from vram_llm.units import GIB

FLAGS = ("-ts", "20,29", "-c", "8k", "--no-op-offload")
OVERRIDES = "experts:0-9,12=CPU,experts_up:13=CPU,experts:40-41=GPU0"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    qwen = profile_of(zoo.PUBLISHED["qwen3_30b"](), tmp_path_factory.mktemp("qwen"))
    rig = with_speeds(machine([24 * GIB, 24 * GIB]), speed(400), speed(400))
    return make_plan(qwen, rig, typed(*FLAGS, "-ot", OVERRIDES))


def shown(plan: Plan, width: int) -> str:
    return plain([*head(plan, width), *body(plan, width)])


def test_the_first_sentence(plan: Plan) -> None:
    first = "Fits, with the experts of 11 of 48 layers and part of 1 more on the CPU."
    assert shown(plan, 200).startswith(first)
    assert " ".join(shown(plan, 40).split()).startswith(first)


def test_a_column_for_experts(plan: Plan) -> None:
    rows = {row.split()[0]: row.split() for row in shown(plan, 80).splitlines() if row}
    assert rows["device"][1:3] == ["layers", "experts"]
    assert rows["GPU0"][3:5] == ["20", "10+part"]
    assert rows["GPU1"][3:5] == ["28+out", "26"]
    assert rows["host"][3] == "11+part"
    assert "experts: layers whose routed experts are there." in shown(plan, 80)


def test_experts_on_a_narrow_terminal(plan: Plan) -> None:
    text = shown(plan, 40)
    assert max(map(len, text.splitlines())) <= 40
    assert re.search(r"^GPU0 .* 20, experts of 10\+part$", text, re.MULTILINE)
    assert re.search(r"^host .* experts of 11\+part$", text, re.MULTILINE)


def test_layers_of_the_experts_in_detail(plan: Plan) -> None:
    text = plain(details(plan, 100))
    assert re.search(r"experts +10-11,14-19,40-41,13\* +20-39,42-47 +0-9,12,13\*$", text, re.MULTILINE)
    assert "*: of these layers only some of the weights." in text
    assert "--override-tensor experts:0-9,12=CPU,experts:40-41=GPU0,experts_up:13=CPU" in text


def test_reasons_name_the_experts(plan: Plan) -> None:
    reasons = " ".join(why(plan))
    assert "20 layers on GPU0, 28 layers and the output on GPU1, the experts of layers 0-9,12 on" in reasons
    assert "Layers are not alike" not in reasons


def test_prompts_with_weights_on_the_host(plan: Plan) -> None:
    def other(prompt_s: float, **changes: Any) -> Alternative:
        assert plan.speed is not None
        return Alternative(
            name="other", context=replace(plan.context, **changes), placement=plan.placement,
            estimate=plan.estimate, fits=True, change_bytes={},
            speed=replace(plan.speed, prompt_s=prompt_s, step_s=0.01),
        )  # fmt: skip

    assert plan.speed is not None
    elsewhere = replace(other(8, n_ubatch=2048), flags=("--objective", "throughput"))
    others = (other(2.5, op_offload=True), other(3.5, n_ubatch=256), other(9, parallel=8), elsewhere)
    plan = replace(plan, alternatives=others, speed=replace(plan.speed, prompt_s=3.0, step_s=0.01))
    (prompts,) = (reason for reason in why(plan) if reason.startswith("Prompts: "))
    assert prompts == (
        "Prompts: weights on the CPU are used there for 512 tokens at a time; 2,048 tokens take 3.0 s and an "
        "answer of 512 5.1 s (2.5 s and 5.1 s with copies; 3.5 s and 5.1 s with micro-batches of 256)."
    )
    copied = replace(plan, context=replace(plan.context, op_offload=True))
    (prompts,) = (reason for reason in why(copied) if reason.startswith("Prompts: "))
    assert "are copied to GPU0 for 512 tokens at a time" in prompts


def test_the_cache_on_the_host(tmp_path: Path) -> None:
    llama = profile_of(zoo.PUBLISHED["llama_8b"](), tmp_path)
    plan = make_plan(llama, machine([24 * GIB]), typed("-ts", "1", "-ncffn", "3", "-nkvo", "-c", "8k"))
    first = "Fits, with the KV cache and the feed-forward weights of 3 of 32 layers on the CPU."
    assert shown(plan, 200).startswith(first)
