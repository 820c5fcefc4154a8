import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from tests import zoo
from tests.planner.cases import LAPTOP, link, machine, profile_of, resized, speed, with_speeds
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import DeviceKind, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.llama_split import device_of_layers, placement_from_counts, placement_of
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.speed import Predictor, output_tensors
from vram_llm.planner.types import Placement, SpeedEstimate, Workload
from vram_llm.units import GIB, MIB


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("8b"))


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.nemotron_49b(), tmp_path_factory.mktemp("49b"))


def predict(
    profile: ModelProfile,
    rig: Machine,
    placement: Placement,
    wish: Workload | None = None,
    *,
    pipelined: bool = False,
) -> SpeedEstimate | None:
    wish = wish or Workload(n_ctx=8192, parallel=1)
    context = resolve_context(profile, rig, wish)
    return Predictor(profile, context, rig, wish)(placement, pipelined=pipelined)


def expect(profile: ModelProfile, rig: Machine, placement: Placement, wish: Workload) -> SpeedEstimate:
    found = predict(profile, rig, placement, wish)
    assert found is not None
    return found


def cards(*read_gb_s: float, **rest: Any) -> Machine:
    return with_speeds(machine([LAPTOP] * len(read_gb_s)), *(speed(each, **rest) for each in read_gb_s))


def on(rig: Machine, *counts: int, n_layers: int | None = None) -> Placement:
    return placement_from_counts([device.id for device in rig.devices], counts, n_layers or sum(counts))


def test_the_known_rig_from_catalog_figures_alone(nemotron: ModelProfile) -> None:
    rig = what_if(["2x RTX 3090 Ti", "RTX 4080 Laptop"])
    wish = Workload(n_ctx=2048, parallel=1)
    ids = [device.id for device in rig.devices]
    run = placement_of(ids, device_of_layers(80, -1, (0.35, 0.45, 0.20)))
    found = expect(nemotron, rig, run, wish)
    assert found.step_s == pytest.approx(79.18e-3, rel=0.10)
    assert found.basis is Source.CATALOG
    planned = plan_placement(nemotron, rig, wish)
    assert planned.estimate.fits
    assert expect(nemotron, rig, planned.placement, wish).step_s < found.step_s


# Published figures of Llama 3 8B: RTX 5080, Q4_0, depth 0 and 32768 (AlexsJones/llmfit's benchmark cache,
# 2026-06); RTX 4090, F16, prompts of 4096 (GPU-Benchmarks-on-LLM-Inference, May 2024).
def test_the_context_costs_what_it_was_measured_to(llama: ModelProfile) -> None:
    rig = what_if(["RTX 5080"])
    placement = on(rig, 32)
    deep, shallow = (
        expect(llama, rig, placement, Workload(n_ctx=65536, parallel=1, expect_depth=depth)).step_s
        for depth in (32768, 1)
    )
    assert deep - shallow == pytest.approx(1 / 79.46 - 1 / 148.35, rel=0.15)


@pytest.mark.parametrize(("n_cards", "ratio"), [(2, 10329.29 / 6531.36), (4, 15143.84 / 6531.36)])
def test_stages_overlap_as_they_were_measured_to(llama: ModelProfile, n_cards: int, ratio: float) -> None:
    rig = what_if([f"{n_cards}x RTX 4090"])
    wish = Workload(n_ctx=8192, parallel=1, expect_depth=4096)
    alone = predict(llama, rig, on(rig, 32), wish)
    together = predict(llama, rig, on(rig, *[32 // n_cards] * n_cards), wish, pipelined=True)
    assert alone is not None
    assert together is not None
    assert alone.prompt_tokens_per_s is not None
    assert together.prompt_tokens_per_s is not None
    assert together.prompt_tokens_per_s / alone.prompt_tokens_per_s == pytest.approx(ratio, rel=0.10)


def test_a_step_by_hand(llama: ModelProfile) -> None:
    """Two devices, every term of the sum."""
    rig = cards(100, 50, layer_us=10, step_us=200)
    rig = dataclasses.replace(
        rig, devices=(rig.devices[0], dataclasses.replace(rig.devices[1], link=link(1)))
    )
    small = resized(llama, [100, 200, 300], outside_mib=50)
    wish = Workload(n_ctx=8192, parallel=1, expect_depth=1000)
    found = expect(small, rig, on(rig, 1, 2), wish)
    kept = 2 * (llama.layers[0].n_embd_k_gqa + llama.layers[0].n_embd_v_gqa) * 1000 / 0.8
    first = 200e-6 + 10e-6 + (100 * MIB + kept) / 100e9
    second = 200e-6 + 2 * 10e-6 + (550 * MIB + 2 * kept) / 50e9
    crossing = (llama.n_embd + llama.vocab_size) * 4 / 1e9
    assert [each.seconds for each in found.devices] == pytest.approx([first, second + crossing])
    assert [each.id for each in found.devices] == ["GPU0", "GPU1"]
    assert sum(each.share for each in found.devices) == pytest.approx(1)
    assert found.tokens_per_s == pytest.approx(1 / (first + second + crossing))
    assert found.depth == 1000


def test_further_streams_cost_arithmetic_and_their_own_context(llama: ModelProfile) -> None:
    rig = cards(100, row_tflops=2)
    wish = Workload(n_ctx=8192, parallel=4, expect_depth=512)
    found = expect(llama, rig, on(rig, 32), wish)
    weights = llama.active_bytes_per_token  # with the embedding's row, some kilobytes
    kept = 512 * llama.kv_bytes_per_token / 0.8  # which cards read more slowly than weights
    params = sum(t.n_bytes * 32 // 34 for layer in llama.layers for t in layer.tensors if len(t.shape) > 1)
    params += sum(t.n_bytes * 32 // 34 for t in output_tensors(llama) if len(t.shape) > 1)
    assert found.streams == 4
    assert found.streams_step_s is not None
    assert found.streams_step_s == pytest.approx(
        (weights + 4 * kept) / 100e9 + 3 * 2 * params / 2e12, rel=1e-3
    )
    assert found.streams_tokens_per_s == pytest.approx(4 / found.streams_step_s)
    assert found.step_s == pytest.approx((weights + kept) / 100e9, rel=1e-3)


def test_only_the_experts_used_are_read(tmp_path: Path) -> None:
    moe = profile_of(zoo.qwen3_moe(), tmp_path)
    rig = cards(100, row_tflops=1e6)
    wish = Workload(n_ctx=512, parallel=16, expect_depth=1)
    found = expect(moe, rig, on(rig, 48), wish)
    assert found.step_s == pytest.approx(moe.active_bytes_per_token / 100e9, rel=0.01)
    assert found.streams_step_s is not None
    experts = sum(layer.expert_bytes for layer in moe.layers)
    dense = moe.active_bytes_per_token - experts * 8 / 128
    reached = experts * (1 - (120 / 128) ** 4) / 0.65  # by another kernel, which takes 85 us a layer more
    assert found.streams_step_s == pytest.approx((dense + reached) / 100e9 + 48 * 85e-6, rel=0.01)


def test_layers_with_more_kernels_have_more_overhead(tmp_path: Path) -> None:
    def per_layer(model: zoo.Model, rig: Machine) -> list[float]:
        shape = profile_of(model, tmp_path)
        context = resolve_context(shape, rig, Workload(n_ctx=512, parallel=1))
        sums = Predictor(shape, context, rig, Workload(expect_depth=1)).decode_costs("GPU0", 1).sums
        return [1e6 * (end - start) for start, end in itertools.pairwise(sums[:-1])]

    rig = cards(1e9, layer_us=100)
    assert per_layer(zoo.llama(), rig) == pytest.approx([100] * 32, abs=0.1)
    assert per_layer(zoo.qwen3_moe(), rig) == pytest.approx([150] * 48, abs=0.1)
    assert per_layer(zoo.gemma3(), rig) == pytest.approx([180] * 62, abs=0.1)
    latent = per_layer(zoo.deepseek2(), rig)
    assert [latent[0], latent[-1]] == pytest.approx([190, 240], abs=0.1)
    mixers = {"M": 60, "E": 90, "*": 60}
    pattern = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
    assert per_layer(zoo.nemotron_nano(pattern), rig) == pytest.approx([mixers[c] for c in pattern], abs=0.1)
    vulkan = with_speeds(machine([LAPTOP], kind=DeviceKind.VULKAN), speed(1e9, layer_us=100))
    assert per_layer(zoo.qwen3_moe(), vulkan) == pytest.approx([150] * 48, abs=0.1)


def test_a_sliding_window_is_read_no_further_than_it_reaches(tmp_path: Path) -> None:
    gemma = profile_of(zoo.gemma3(), tmp_path)
    rig = cards(100)

    def step(depth: int) -> float:
        wish = Workload(n_ctx=65536, parallel=1, expect_depth=depth)
        return expect(gemma, rig, on(rig, 62), wish).step_s

    full = sum(layer.kv_bytes_per_token for layer in gemma.layers if not layer.sliding_window)
    assert step(40000) - step(2000) == pytest.approx(38000 * full / 100e9 / 0.8)
    assert step(600) - step(500) == pytest.approx(100 * gemma.kv_bytes_per_token / 100e9 / 0.8)


def test_recurrent_states_are_read_and_written_for_each_stream(tmp_path: Path) -> None:
    hybrid = profile_of(zoo.nemotron_nano(), tmp_path)
    states = sum(layer.recurrent_state_bytes for layer in hybrid.layers)
    assert states > 0
    rig = cards(100, row_tflops=1e9)
    now, then = (
        expect(hybrid, rig, on(rig, hybrid.n_layers), Workload(n_ctx=512, parallel=n, expect_depth=1))
        for n in (2, 3)
    )
    assert now.streams_step_s is not None
    assert then.streams_step_s is not None
    assert then.streams_step_s - now.streams_step_s > 2 * states / 100e9


def test_layers_on_the_host_take_the_hosts_time(llama: ModelProfile) -> None:
    rig = cards(1000)
    placement = on(rig, 16, n_layers=32)
    assert placement.cpu_layers == 16
    unmeasured = predict(llama, rig, placement)
    assert unmeasured is not None
    assert unmeasured.basis is Source.ASSUMED
    rig = dataclasses.replace(
        rig, host=dataclasses.replace(rig.host, speed=speed(10, source=Source.ESTIMATED))
    )
    found = predict(llama, rig, placement)
    assert found is not None
    assert [each.id for each in found.devices] == ["host", "GPU0"]
    assert found.devices[0].share > 0.95
    assert found.basis is Source.ESTIMATED


def test_everything_on_the_host(llama: ModelProfile) -> None:
    rig = machine([])
    rig = dataclasses.replace(rig, host=dataclasses.replace(rig.host, speed=speed(10)))
    found = predict(llama, rig, on(rig, n_layers=32), Workload(n_ctx=512, parallel=1, expect_depth=1))
    assert found is not None
    assert found.step_s == pytest.approx(llama.active_bytes_per_token / 10e9, rel=0.01)


def test_an_unknown_speed_is_assumed_where_it_is_used(llama: ModelProfile) -> None:
    rig = with_speeds(machine([LAPTOP] * 2), speed(100), None)
    both = expect(llama, rig, on(rig, 16, 16), Workload(n_ctx=8192))
    assert (both.basis, both.streams_basis, both.prompt_basis) == (Source.ASSUMED,) * 3
    one = expect(llama, rig, on(rig, 32), Workload(n_ctx=8192))
    assert (one.basis, one.streams_basis, one.prompt_basis) == (Source.MEASURED,) * 3


def test_unknown_arithmetic_is_assumed_and_one_stream_needs_none(llama: ModelProfile) -> None:
    rig = with_speeds(machine([LAPTOP]), speed(100, row_tflops=None, prompt_tflops=None))
    found = expect(llama, rig, on(rig, 32), Workload(n_ctx=8192, parallel=8))
    assert (found.basis, found.streams_basis) == (Source.MEASURED, Source.ASSUMED)
    assert found.prompt_basis is Source.ASSUMED
    assert found.streams_tokens_per_s is not None
    assert found.streams_tokens_per_s > found.tokens_per_s


def test_the_least_trusted_source_is_the_basis(llama: ModelProfile) -> None:
    rig = with_speeds(machine([LAPTOP] * 2), speed(100), speed(100, source=Source.CATALOG))
    found = predict(llama, rig, on(rig, 16, 16))
    assert found is not None
    assert (found.basis, found.streams_basis, found.prompt_basis) == (Source.CATALOG,) * 3
    datasheet = predict(llama, what_if(["RTX 3090"]), on(rig, 32), Workload(n_ctx=8192))
    assert datasheet is not None
    assert (datasheet.basis, datasheet.streams_basis) == (Source.CATALOG, Source.ESTIMATED)


def test_pipeline_copies_overlap_the_stages_of_a_prompt(llama: ModelProfile) -> None:
    rig = cards(1000, 1000, prompt_tflops=50)
    wish = Workload(n_ctx=8192, parallel=1, expect_depth=2048)
    placement = on(rig, 16, 16)
    alone = predict(llama, rig, placement, wish)
    together = predict(llama, rig, placement, wish, pipelined=True)
    assert alone is not None
    assert together is not None
    assert alone.prompt_s is not None
    assert together.prompt_s is not None
    # four micro-batches over two stages of the same length: five stages of time in plan_placement of eight
    assert together.prompt_s / alone.prompt_s == pytest.approx(5 / 8, rel=0.02)
    assert together.step_s == alone.step_s
    flops = 2 * 2048 * sum(t.n_bytes * 32 / 34 for x in llama.layers for t in x.tensors if len(t.shape) > 1)
    assert alone.prompt_s == pytest.approx(flops / 50e12, rel=0.10)  # the rest: attention


def test_a_prompt_of_one_batch_after_another(llama: ModelProfile) -> None:
    rig = cards(1000)
    short, long = (
        predict(llama, rig, on(rig, 32), Workload(n_ctx=32 * 1024, parallel=1, expect_depth=depth))
        for depth in (2048, 4 * 2048)
    )
    assert short is not None
    assert long is not None
    assert short.prompt_s is not None
    assert long.prompt_s is not None
    assert long.prompt_s > 4 * short.prompt_s  # attention grows with what is behind
    assert long.prompt_tokens_per_s == pytest.approx(4 * 2048 / long.prompt_s)


def test_the_depth_expected_is_at_most_half_the_context_unless_told(llama: ModelProfile) -> None:
    rig = cards(100)
    for n_ctx, wanted, depth in ((1024, None, 512), (65536, None, 1024), (1024, 5000, 1024)):
        wish = Workload(n_ctx=n_ctx, parallel=1, expect_depth=wanted)
        assert expect(llama, rig, on(rig, 32), wish).depth == depth


def test_a_card_with_no_room_for_one_layer_is_no_trouble(llama: ModelProfile) -> None:
    rig = with_speeds(machine([GIB, 24 * GIB]), speed(1000), speed(100))
    found = plan_placement(llama, rig, Workload(n_ctx=2048))
    assert found.placement.device_order == ("GPU1",)
