"""Whole layers or a share of every layer: what is chosen, and the sentence that says why."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests import zoo
from tests.planner.cases import machine, profile_of, speed, with_speeds
from vram_llm.errors import BadPlan, ModelRefused
from vram_llm.machine.types import Machine, MeasuredSum, SumFacts
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.estimates import DeviceEstimate, Estimate, HostEstimate, MemoryUse
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.override_text import parse_overrides
from vram_llm.planner.tensor_split import SplitChoice, SplitMode, TensorSplit
from vram_llm.planner.types import Context, FlashAttention, MeterFor, Placement, Plan, Workload
from vram_llm.units import GIB, MIB

WORKLOAD = Workload(n_ctx=8192, split_mode=SplitChoice.AUTO)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("8b"))


def exact(profile: ModelProfile, machine: Machine, context_bytes: int = 100_000) -> MeterFor:
    """A meter that divides everything, with `context_bytes` for each token of context."""

    def measure(context: Context) -> Callable[[Placement], Estimate]:
        def of(placement: Placement) -> Estimate:
            parts = placement.tensor_split
            devices = {device.id: device for device in machine.devices}
            whole, cache = profile.total_bytes, context_bytes * context.n_ctx
            shares = [part / sum(parts) for part in parts]
            uses = [MemoryUse(int(share * whole), int(share * cache), 64 * MIB) for share in shares]
            return Estimate(
                method="dry run",
                devices=tuple(
                    DeviceEstimate.of(id, use, overhead_bytes=0, budget_bytes=devices[id].budget_bytes(GIB))
                    for id, use in zip(placement.device_order, uses, strict=True)
                ),
                host=HostEstimate.of(MemoryUse(), budget_bytes=60 * GIB),
            )

        return of

    return measure


def rig(*rates_gb_s: float, gib: int = 24, sum_us: float = 20.0) -> Machine:
    """Cards of some read rates, all of one size, whose sums were measured."""
    found = with_speeds(machine([gib * GIB] * len(rates_gb_s)), *(speed(rate) for rate in rates_gb_s))
    ids = [device.id for device in found.devices]
    sums = tuple(
        MeasuredSum(device_ids=frozenset(ids[:n]), latency_s=sum_us * 1e-6, bytes_per_s=2e10)
        for n in range(2, len(ids) + 1)
    )
    return replace(found, sums=SumFacts(measured=sums))


def planned(llama: ModelProfile, rig: Machine, workload: Workload = WORKLOAD) -> Plan:
    return make_plan(llama, rig, workload, exact(llama, rig), compares=False)


def notes(plan: Plan) -> str:
    return "; ".join(plan.notes)


def test_two_equal_cards_with_quick_sums_share_every_layer(llama: ModelProfile) -> None:
    plan = planned(llama, rig(800, 800))
    assert plan.placement.split_mode is SplitMode.TENSOR
    assert plan.placement.tensor_split[0] == plan.placement.tensor_split[1]
    (other,) = plan.alternatives
    assert other.placement.split_mode is SplitMode.LAYER
    assert plan.speed is not None
    assert plan.speed.sums is not None
    assert plan.speed.sums.count == 64
    assert "for 64 sums of the devices, 20.8 us each (measured)" in notes(plan)


def test_a_tensor_split_has_the_notes_of_the_machine(llama: ModelProfile) -> None:
    two = replace(rig(800, 800), notes=("the link of GPU1 is slower than when it was calibrated",))
    plan = planned(llama, two)
    assert plan.placement.split_mode is SplitMode.TENSOR
    assert two.notes[0] in plan.notes


def test_the_faster_card_has_the_larger_share(llama: ModelProfile) -> None:
    first, second = planned(llama, rig(900, 300, gib=8)).placement.tensor_split
    assert 2.3 < first / second < 4


@pytest.mark.parametrize(
    ("sum_us", "reason"),
    [
        (50, r"split by layers: a tensor split is predicted \d+% faster, within the error of such a"),
        (400, r"split by layers: a tensor split is predicted \d+% slower"),
    ],
)
def test_why_layers_stay_whole(llama: ModelProfile, sum_us: float, reason: str) -> None:
    plan = planned(llama, rig(800, 800, sum_us=sum_us))
    assert plan.placement.split_mode is SplitMode.LAYER
    assert [note for note in plan.notes if re.match(reason, note)]
    (other,) = plan.alternatives
    assert other.placement.split_mode is SplitMode.TENSOR


def test_layers_that_are_on_the_host_for_speed_alone_are_no_obstacle(llama: ModelProfile) -> None:
    """The host is as fast as either card, which both together outdo."""
    two = rig(60, 60, sum_us=100)
    two = replace(two, host=replace(two.host, speed=speed(70)))
    layers = planned(llama, two, replace(WORKLOAD, split_mode=SplitChoice.LAYER))
    assert layers.placement.cpu_layers > 0
    assert planned(llama, two).placement.split_mode is SplitMode.TENSOR


def test_weights_that_need_the_host_leave_no_tensor_split(llama: ModelProfile) -> None:
    plan = planned(llama, rig(800, 800, gib=4))
    assert plan.placement.split_mode is SplitMode.LAYER
    assert "split by layers: no tensor split, the devices have room for 6.00 GiB of 7.43" in notes(plan)


def test_a_told_tensor_split_is_taken_even_if_it_is_slower(llama: ModelProfile) -> None:
    workload = replace(WORKLOAD, split_mode=SplitChoice.TENSOR)
    assert planned(llama, rig(800, 800, sum_us=400), workload).placement.split_mode is SplitMode.TENSOR


@pytest.mark.parametrize(
    ("rates", "change", "reason"),
    [
        ((800,), {}, "it needs two devices"),
        ((800, 800), {"flash_attn": FlashAttention.OFF}, "it needs flash attention, which --flash-attn off"),
        ((800, 800), {"n_gpu_layers": 20}, "--n-gpu-layers 20 keeps some on the host"),
        ((800, 800), {"overrides": "ffn:0-3=CPU"}, "--override-tensor, --cpu-moe and the like put some else"),
        ((800, 800), {"kv_offload": False}, "it is not planned with weights or caches on the host"),
        ((800, 800), {"tensor_split": TensorSplit((1.0, 0.0))}, "it needs two devices"),
    ],
)
def test_refusals_are_one_sentence(
    llama: ModelProfile, rates: tuple[float, ...], change: dict[str, Any], reason: str
) -> None:
    if "overrides" in change:
        change = {"overrides": parse_overrides(change["overrides"])}
    workload = replace(WORKLOAD, split_mode=SplitChoice.TENSOR, **change)
    with pytest.raises(BadPlan) as refused:
        planned(llama, rig(*rates), workload)
    message = str(refused.value)
    assert message.startswith(f"no tensor split: {reason}") or reason in message
    assert message.endswith("; --split-mode layer plans whole layers")
    assert "\n" not in message


def test_a_refusal_of_llama_cpp_keeps_whole_layers(llama: ModelProfile) -> None:
    def refuse(_context: Context) -> Callable[[Placement], Estimate]:
        def of(_placement: Placement) -> Estimate:
            raise ModelRefused("LLAMA_SPLIT_MODE_TENSOR not implemented for architecture 'mamba'")

        return of

    def meter(context: Context) -> Callable[[Placement], Estimate]:
        by_layers, by_tensors = exact(llama, two)(context), refuse(context)
        return lambda placement: (by_tensors if placement.split_mode is SplitMode.TENSOR else by_layers)(
            placement
        )

    two = rig(800, 800)
    plan = make_plan(llama, two, WORKLOAD, meter, compares=False)
    assert "split by layers: no tensor split, LLAMA_SPLIT_MODE_TENSOR not implemented for arch" in notes(plan)
    with pytest.raises(BadPlan, match="architecture 'mamba'; --split-mode layer plans whole layers"):
        make_plan(llama, two, replace(WORKLOAD, split_mode=SplitChoice.TENSOR), meter, compares=False)


def test_the_planner_shortens_its_own_context_for_a_told_tensor_split(llama: ModelProfile) -> None:
    """By tensors the meter counts twenty times as much for each token."""
    two = rig(800, 800, gib=8)

    def meter(context: Context) -> Callable[[Placement], Estimate]:
        by_layers, by_tensors = (exact(llama, two, n)(context) for n in (10_000, 1_000_000))
        return lambda placement: (by_tensors if placement.split_mode is SplitMode.TENSOR else by_layers)(
            placement
        )

    workload = Workload(split_mode=SplitChoice.TENSOR)
    plan = make_plan(llama, two, workload, meter, compares=False)
    assert plan.placement.split_mode is SplitMode.TENSOR
    assert 2048 <= plan.context.n_ctx < Workload.DEFAULT_N_CTX
    with pytest.raises(BadPlan, match="no shares fit the devices with a context of 32k"):
        make_plan(llama, two, replace(workload, n_ctx=32768), meter, compares=False)
