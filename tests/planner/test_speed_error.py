import dataclasses
import math
from pathlib import Path

import pytest

from tests import zoo
from tests.planner.cases import machine, profile_of, speed, with_speeds
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Machine, Source
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.speed import Predictor
from vram_llm.planner.speed_error import PAIR_ERROR, Width, device_error, is_certain, mean_error
from vram_llm.planner.types import SpeedEstimate, Workload
from vram_llm.units import GIB


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("8b"))


def predicted(llama: ModelProfile, rig: Machine, *counts: int) -> SpeedEstimate:
    wish = Workload(n_ctx=8192)
    placement = placement_from_counts([device.id for device in rig.devices], counts, 32)
    return Predictor(llama, resolve_context(llama, rig, wish), rig, wish)(placement, pipelined=False)


def width(found: SpeedEstimate) -> float:
    likely = found.tokens_per_s_range
    assert likely is not None
    assert likely.low < found.tokens_per_s < likely.high
    return math.log(likely.high / likely.low) / 2


def test_a_range_is_as_wide_as_the_card_is_unknown(llama: ModelProfile) -> None:
    ada, amd, unknown = (
        width(predicted(llama, what_if([name]), 32)) for name in ("RTX 4090", "RX 7900 XTX", "24GiB@1008GB/s")
    )
    assert ada < 0.14 < amd <= unknown
    assumed = width(predicted(llama, what_if(["24GiB"]), 32))
    measured = width(predicted(llama, with_speeds(machine([24 * GIB]), speed(900)), 32))
    assert measured < unknown < assumed


def test_several_streams_are_known_less_well(llama: ModelProfile) -> None:
    found = predicted(llama, what_if(["RTX 4090"]), 32)
    streams = found.streams_tokens_per_s_range
    assert streams is not None
    assert math.log(streams.high / streams.low) / 2 > width(found)


def test_the_error_of_several_devices_is_their_mean_by_time() -> None:
    errors = {"a": Width(0.1, 0.2), "b": Width(0.5, 0.2)}
    assert mean_error({"a": 3.0, "b": 1.0}, errors) == pytest.approx(Width(0.2, 0.2))


def test_a_described_back_end_is_known_better_than_either(llama: ModelProfile) -> None:
    either, vulkan, rocm = (
        predicted(llama, what_if([f"RX 7900 XTX{backend}"]), 32) for backend in ("", "@Vulkan", "@ROCm")
    )
    assert max(width(vulkan), width(rocm)) < width(either)
    assert min(vulkan.tokens_per_s, rocm.tokens_per_s) <= either.tokens_per_s
    assert either.tokens_per_s <= max(vulkan.tokens_per_s, rocm.tokens_per_s)


def test_older_builds_widen_the_lower_side(llama: ModelProfile) -> None:
    ada, blackwell = (predicted(llama, what_if([name]), 32) for name in ("RTX 4090", "RTX 5090"))
    for found, is_even in ((ada, False), (blackwell, True)):
        likely = found.tokens_per_s_range
        assert likely is not None
        low, high = found.tokens_per_s / likely.low, likely.high / found.tokens_per_s
        assert (low < 1.02 * high) is is_even


def test_a_common_error_cancels_in_a_comparison(llama: ModelProfile) -> None:
    rig = what_if(["2x RX 7900 XTX"])
    one = predicted(llama, rig, 16, 16)
    faster = dataclasses.replace(one, step_s=one.step_s * math.exp(-2 * PAIR_ERROR))
    assert is_certain(one, faster)  # the same shares: the cards' errors of 36 % cancel
    assert not is_certain(one, dataclasses.replace(one, step_s=one.step_s * 1.01))
    apart = dataclasses.replace(
        faster,
        devices=tuple(dataclasses.replace(d, share=s) for d, s in zip(one.devices, (0.9, 0.1), strict=True)),
    )
    assert not is_certain(one, apart)


# Published decode speeds of Llama 2 7B Q4_0 (ggml-org/llama.cpp discussions 15013, 15021 and 4167, 2025-26).
@pytest.mark.parametrize(
    ("card", "tokens_per_s"),
    [
        ("RTX 4090 D", 189.33),
        ("RTX 4070 Ti SUPER", 132.26),
        ("RTX 3060@12GiB", 75.57),
        ("RTX A6000", 138.73),
        ("RTX 5060 Ti@16GiB", 90.94),
        ("RTX PRO 6000", 274.2),
        ("Quadro RTX 6000", 102.77),
        ("NVIDIA A30", 124.81),
        ("RX 9070", 114.48),
        ("RX 7900 XTX", 167.11),
        ("Instinct MI50@32GiB", 98.95),
        ("M2 Max@64GiB@400GB/s", 65.95),
    ],
)
def test_published_speeds_are_within_the_range(card: str, tokens_per_s: float, tmp_path: Path) -> None:
    llama2 = zoo.llama(kv=32, ff=11008, vocab=32000, ctx=4096, rope_freqs=False)
    model = profile(read_header(zoo.write(llama2, tmp_path / "model.gguf", common="Q4_0")))
    wish = Workload(n_ctx=512, parallel=1, expect_depth=64)
    rig = what_if([card])
    placement = placement_from_counts(["GPU0"], [32], 32)
    found = Predictor(model, resolve_context(model, rig, wish), rig, wish)(placement, pipelined=False)
    likely = found.tokens_per_s_range
    assert likely is not None
    assert likely.low < tokens_per_s < likely.high


def test_a_measured_speed_is_calibrated() -> None:
    (device,) = with_speeds(machine([GIB]), speed(100)).devices
    assert device.speed is not None
    assert device.speed.read_bytes_per_s.source is Source.MEASURED
    assert device_error(device).decode.low < device_error(what_if(["RX 6800"]).devices[0]).decode.low
