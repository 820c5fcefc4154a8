"""Real plans, run for their speed in a process of their own."""

import dataclasses

import pytest

from tests.conftest import PlanOnCpu
from vram_llm.errors import BadPlan, ModelRefused
from vram_llm.llama.measure.throughput import rates, with_expected
from vram_llm.llama.measure.throughput_wire import BenchTest
from vram_llm.machine.types import Machine, Source
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.tensor_split import TensorSplit
from vram_llm.planner.types import SpeedEstimate, Workload

LOADS = [BenchTest(prompt=40), BenchTest(decode=5), BenchTest(decode=3, streams=4)]


@pytest.mark.process
def test_every_round_of_every_load(plan_on_cpu: PlanOnCpu) -> None:
    told: list[float] = []
    plans = [plan_on_cpu(), plan_on_cpu(n_ubatch=16, n_batch=16)]
    found = rates(plans, LOADS, 2, told.append)
    assert [[len(rounds) for rounds in of_plan] for of_plan in found] == [[2, 2, 2]] * 2
    assert all(rate > 0 for of_plan in found for rounds in of_plan for rate in rounds)
    assert told == sorted(told)
    assert told[-1] == 1


@pytest.mark.process
def test_several_plans_on_the_same_workers(machine: Machine, plan_on_cpu: PlanOnCpu) -> None:
    """A worker serves one connection, which all of a process's plans share."""
    from vram_llm.workflows import detection

    profile = detection.analyze(plan_on_cpu().model.path)
    plans = [
        make_plan(
            profile,
            machine,
            Workload(n_ctx=256, parallel=2, reserve_bytes=0, tensor_split=split),
        )
        for split in (TensorSplit((1, 1, 3)), TensorSplit((3, 0, 2)))
    ]
    found = rates(plans, [BenchTest(decode=2)], 1)
    assert len(found) == 2


@pytest.mark.process
def test_a_plan_that_cannot_be_loaded(plan_on_cpu: PlanOnCpu) -> None:
    plan = plan_on_cpu()
    gone = dataclasses.replace(plan, model=dataclasses.replace(plan.model, path="/nowhere.gguf"))
    with pytest.raises(ModelRefused, match=r"nowhere\.gguf"):
        rates([gone], LOADS, 1)
    elsewhere = dataclasses.replace(plan.placement, device_order=("GPU7",), tensor_split=(5,))
    with pytest.raises(BadPlan, match="GPU7"):
        rates([dataclasses.replace(plan, placement=elsewhere)], LOADS, 1)


@pytest.mark.parametrize(
    ("test", "name", "n_tokens"),
    [
        (BenchTest(prompt=512), "pp512", 512),
        (BenchTest(decode=128), "tg128", 128),
        (BenchTest(decode=32, streams=8), "tg32 x8", 256),
    ],
)
def test_names_are_llama_benchs(test: BenchTest, name: str, n_tokens: int) -> None:
    assert (test.name, test.n_tokens) == (name, n_tokens)


def test_each_load_beside_what_was_expected_of_it() -> None:
    estimate = SpeedEstimate(
        basis=Source.MEASURED, depth=64, step_s=0.1, tokens_per_s=10.0, streams=4, streams_step_s=0.2,
        streams_tokens_per_s=20.0, streams_basis=Source.CATALOG, prompt_tokens=64, prompt_s=0.64,
        prompt_tokens_per_s=100.0, prompt_stage_s=0.64, prompt_basis=Source.DRIVER, devices=(),
    )  # fmt: skip
    found = with_expected(LOADS, [(90.0, 80.0, 85.0), (10.0,), (25.0,)], estimate, estimate)
    assert [each.tokens_per_s for each in found] == [85, 10, 25]
    assert [each.expected_tokens_per_s for each in found] == [100, 10, 20]
    assert [each.basis for each in found] == [Source.DRIVER, Source.MEASURED, Source.CATALOG]
    assert found[0].off == pytest.approx(100 / 85 - 1)
    (unknown,) = with_expected(LOADS[:1], [(90.0,)], None, None)
    assert (unknown.off, unknown.basis) == (None, None)
