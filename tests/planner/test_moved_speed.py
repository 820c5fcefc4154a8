"""Predicted times of weights away from their layer's device, and of prompts with weights on the host."""

import dataclasses
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import LAPTOP, link, machine, profile_of, speed, with_speeds
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import DeviceKind, Fact, Host, Machine, Source, TypeSpeed
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner.context import resolve_context
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.overrides import Override
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import HOST, FlashAttention, Placement, Workload
from vram_llm.units import GIB

SPLIT_S = 40e-6
WISH = Workload(n_ctx=8192, parallel=1, expect_depth=1024)


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.qwen3_moe(layers=6), tmp_path_factory.mktemp("moe"))


def rig(*, kinds: tuple[DeviceKind, ...] = (DeviceKind.CUDA, DeviceKind.CUDA)) -> Machine:
    """Cards of 500 and 250 GB/s, the first at a link of 20 GB/s, and a host of 50 GB/s."""
    split = Fact(SPLIT_S, Source.MEASURED)
    speeds = [dataclasses.replace(speed(gb_s), split_s=split) for gb_s in (500, 250)]
    found = with_speeds(machine([LAPTOP] * 2), *speeds)
    cards = (dataclasses.replace(card, kind=kind) for card, kind in zip(found.devices, kinds, strict=True))
    first, second = cards
    host_speed = dataclasses.replace(speed(50, prompt_tflops=1), split_s=split)
    return dataclasses.replace(
        found,
        devices=(dataclasses.replace(first, link=link(20)), dataclasses.replace(second, link=link(10))),
        host=dataclasses.replace(found.host, speed=host_speed),
    )


def predictor(
    model: ModelProfile, on: Machine, wish: Workload = WISH, *, op_offload: bool = False
) -> Predictor:
    context = dataclasses.replace(resolve_context(model, on, wish), op_offload=op_offload)
    return Predictor(model, context, on, wish)


def placed(model: ModelProfile, *counts: int, experts_of: tuple[int, ...] = (), to: str = HOST) -> Placement:
    placement = placement_from_counts(["GPU0", "GPU1"], counts, model.n_layers)
    overrides = (Override.of(LayerPart.EXPERTS, experts_of, to),) if experts_of else ()
    return dataclasses.replace(placement, overrides=overrides)


def step_s(predict: Predictor, placement: Placement) -> float:
    return predict(placement, pipelined=False).step_s


@pytest.mark.parametrize("to", [HOST, "GPU1"])
def test_a_moved_part_is_read_there_and_costs_two_splits(moe: ModelProfile, to: str) -> None:
    predict, layer = predictor(moe, rig()), moe.layers[2]
    used_bytes = layer.expert_bytes * moe.n_expert_used / moe.n_expert
    there = {HOST: 50e9, "GPU1": 250e9}[to]
    activations = 2 * moe.n_embd * 4 * (1 / 20e9 + (1 / 10e9 if to == "GPU1" else 0.0))
    more = step_s(predict, placed(moe, 3, 3, experts_of=(2,), to=to)) - step_s(predict, placed(moe, 3, 3))
    assert more == pytest.approx(used_bytes * (1 / there - 1 / 500e9) + 2 * SPLIT_S + activations, rel=1e-3)
    assert more == pytest.approx(
        predict.moved_s("GPU0", to, layer, layer.tensors_of(LayerPart.EXPERTS), 1), rel=1e-6
    )


def test_moved_parts_add_up_whatever_else_is_moved(moe: ModelProfile) -> None:
    predict = predictor(moe, rig(), op_offload=True)
    none = predict(placed(moe, 3, 3), pipelined=False)
    some = [predict(placed(moe, 3, 3, experts_of=layers), pipelined=False) for layers in ((1,), (4,), (1, 4))]
    for figure in ("step_s", "streams_step_s", "prompt_s"):
        more = [getattr(found, figure) - getattr(none, figure) for found in some]
        assert more[2] == pytest.approx(more[0] + more[1], rel=1e-6), figure
    assert [each.id for each in some[2].devices] == ["GPU0", "GPU1", HOST]


def test_a_processor_reads_each_type_at_its_own_rate(moe: ModelProfile) -> None:
    on = rig()
    assert on.host.speed is not None
    slow = TypeSpeed(
        type="Q8_0",
        read_bytes_per_s=Fact(10e9, Source.MEASURED),
        row_flops_per_s=Fact(1e12, Source.MEASURED),
        prompt_flops_per_s=Fact(1e11, Source.MEASURED),
    )
    tensors = moe.layers[0].tensors_of(LayerPart.EXPERTS)
    assert {tensor.type.name for tensor in tensors} == {"Q8_0"}
    by_type = dataclasses.replace(on.host.speed, types=(slow,))
    with_types = dataclasses.replace(on, host=dataclasses.replace(on.host, speed=by_type))
    one, other = (predictor(moe, each).read_s(HOST, moe.layers[0], tensors, 1) for each in (on, with_types))
    assert other == pytest.approx(5 * one)
    shared = dataclasses.replace(by_type, expert_read_share=Fact(0.5, Source.MEASURED))
    with_share = dataclasses.replace(on, host=dataclasses.replace(on.host, speed=shared))
    assert predictor(moe, with_share).read_s(HOST, moe.layers[0], tensors, 1) == pytest.approx(2 * other)


def test_prompts_send_the_hosts_experts_to_the_first_device(moe: ModelProfile) -> None:
    """Once for each micro-batch, over that device's link, whatever device the layer is on."""
    layer = moe.layers[4]
    experts = layer.tensors_of(LayerPart.EXPERTS)
    large = Workload(n_ctx=8192, parallel=1, expect_depth=1024, n_ubatch=4096, n_batch=4096)
    predict = predictor(moe, rig(), large, op_offload=True)
    first = predict.offload_device(("GPU0", "GPU1"))
    assert first == "GPU0"
    sent_s = layer.expert_bytes / 20e9  # with 4096 tokens almost all experts are used
    at_home = predict.moved_stage_s("GPU0", HOST, layer, experts, first)
    assert at_home == pytest.approx(sent_s + SPLIT_S, rel=0.05)
    elsewhere = predict.moved_stage_s("GPU1", HOST, layer, experts, first)
    assert elsewhere > at_home + 2 * 4096 * moe.n_embd * 4 * (1 / 20e9 + 1 / 10e9)
    on_host = predict.moved_stage_s("GPU0", HOST, layer, experts)
    flops = 2 * 4096 * sum(t.n_bytes * 32 / 34 for t in experts) * moe.n_expert_used / moe.n_expert
    assert on_host == pytest.approx(flops / 1e12, rel=0.2)


def test_a_step_of_few_tokens_is_never_offloaded(moe: ModelProfile) -> None:
    on, few = rig(), dataclasses.replace(WISH, n_ubatch=16)
    for wish in (few, WISH):
        with_, without = (predictor(moe, on, wish, op_offload=wanted) for wanted in (True, False))
        placement = placed(moe, 3, 3, experts_of=(0, 1))
        assert step_s(with_, placement) == step_s(without, placement)
        prompts = [each(placement, pipelined=False).prompt_s for each in (with_, without)]
        assert (prompts[0] == prompts[1]) is (wish is few)


def test_rpc_workers_take_no_weights_from_the_host(moe: ModelProfile) -> None:
    behind = rig(kinds=(DeviceKind.RPC, DeviceKind.CUDA))
    assert predictor(moe, behind, op_offload=True).offload_device(("GPU0", "GPU1")) == "GPU1"
    workers = rig(kinds=(DeviceKind.RPC, DeviceKind.RPC))
    assert predictor(moe, workers, op_offload=True).offload_device(("GPU0", "GPU1")) is None
    assert predictor(moe, rig()).offload_device(("GPU0", "GPU1")) is None


def test_whole_layers_on_the_host_are_offloaded_in_prompts_as_well(moe: ModelProfile) -> None:
    on, placement = rig(), placed(moe, 2, 2)
    assert placement.cpu_layers == 2
    with_, without = (predictor(moe, on, op_offload=wanted) for wanted in (True, False))
    costs = with_.stage_costs(HOST, 512, 0, "GPU0").run(0, 2)
    shared = 1 - (1 - moe.n_expert_used / moe.n_expert) ** (512**0.5)
    n_bytes = sum(x.bytes - x.expert_bytes * (1 - shared) for x in moe.layers[:2])
    assert costs > n_bytes / 20e9
    assert costs < without.stage_costs(HOST, 512, 0).run(0, 2)
    faster, slower = (each(placement, pipelined=False).prompt_s for each in (with_, without))
    assert faster is not None
    assert slower is not None
    assert faster < slower


@pytest.mark.parametrize("flash", [FlashAttention.AUTO, FlashAttention.OFF])
def test_a_cache_on_the_host_is_copied_or_read_there(moe: ModelProfile, flash: FlashAttention) -> None:
    """With flash attention the card gets copies of the cells in use, else the host computes attention."""
    wish, placement = dataclasses.replace(WISH, flash_attn=flash), placed(moe, 6)
    here, away = (
        predictor(moe, rig(), dataclasses.replace(wish, kv_offload=kept))(placement, pipelined=False)
        for kept in (True, False)
    )
    cache_bytes = 1024 * sum(2 * 2 * layer.n_embd_k_gqa for layer in moe.layers)
    copied_s = cache_bytes / 20e9
    read_s = cache_bytes * (1 / 50e9 - 1 / (0.35 * 500e9))  # a card without flash attention
    expected = (copied_s if flash is FlashAttention.AUTO else read_s) + moe.n_layers * 2 * SPLIT_S
    assert away.step_s - here.step_s == pytest.approx(expected, rel=0.05)
    assert away.prompt_s is not None
    assert here.prompt_s is not None
    assert away.prompt_s > here.prompt_s


# One RTX 3090 with the experts of N of gpt-oss-120b's 36 layers on the host, published 2025 (ai-maestro):
# (micro-batch, N, tokens per second).
@pytest.mark.parametrize(
    ("n_ubatch", "n_moved", "published"), [(512, 26, 380), (2048, 25, 1113), (8192, 28, 2091)]
)
def test_prompts_of_a_large_moe_on_one_card(
    tmp_path: Path, n_ubatch: int, n_moved: int, published: float
) -> None:
    model = profile_of(zoo.gpt_oss(), tmp_path)
    on = what_if(["RTX 3090"], Host(name="test", cores=16, total_bytes=64 * GIB, available_bytes=64 * GIB))
    wish = Workload(
        n_ctx=16384, parallel=1, n_ubatch=n_ubatch, n_batch=max(2048, n_ubatch), expect_depth=8192
    )
    placement = placement_from_counts(["GPU0"], [36], 36)
    experts = Override.of(LayerPart.EXPERTS, range(n_moved), HOST)
    found = predictor(model, on, wish, op_offload=True)(
        dataclasses.replace(placement, overrides=(experts,)), pipelined=False
    )
    assert found.prompt_tokens_per_s == pytest.approx(published, rel=0.25)
