import pytest

from tests import zoo
from tests.planner.cases import profile_of
from vram_llm.machine.assumed_speed import with_assumed_speeds
from vram_llm.machine.detect import what_if
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import ModelProfile, profile
from vram_llm.planner.attention_times import AttentionTimes
from vram_llm.planner.context import resolve_context
from vram_llm.planner.layer_times import PlaceTimes
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import FlashAttention, SpeedEstimate, Workload


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("8b"))


@pytest.fixture(scope="module")
def llama_q4(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    path = tmp_path_factory.mktemp("q4") / "8b.gguf"
    return profile(read_header(zoo.write(zoo.llama(), path, common="Q4_K")))


def predicted(llama: ModelProfile, card: str, depth: int, flash_attn: FlashAttention) -> SpeedEstimate:
    rig = what_if([card])
    wish = Workload(n_ctx=16384, parallel=1, expect_depth=depth, flash_attn=flash_attn)
    placement = placement_from_counts([rig.devices[0].id], [32], 32)
    return Predictor(llama, resolve_context(llama, rig, wish), rig, wish)(placement, pipelined=False)


# Prompts of 4096 against 512 tokens of Llama 3 8B Q4_K_M (GPU-Benchmarks-on-LLM-Inference, May 2024, builds
# without flash attention by default).
@pytest.mark.parametrize(
    ("card", "long", "short"),
    [
        ("RTX 3070", 1826.59, 2402.51),
        ("RTX 3090", 3169.91, 4030.4),
        ("RTX 4090", 5265.68, 7138.99),
        ("RTX A6000", 2917.23, 3780.55),
        ("NVIDIA L40S", 4335.18, 6035.24),
    ],
)
def test_scores_that_are_stored_slow_long_prompts_down(
    llama: ModelProfile, card: str, long: float, short: float
) -> None:
    found = [predicted(llama, card, n, FlashAttention.OFF).prompt_tokens_per_s for n in (4096, 512)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0] / found[1] == pytest.approx(long / short, rel=0.08)


def test_flash_attention_is_faster_where_the_context_is_deep(llama: ModelProfile) -> None:
    for card in ("RTX 3090", "RX 7900 XTX", "M2 Ultra@160GiB"):
        flash, plain = (
            predicted(llama, card, 8192, wish) for wish in (FlashAttention.ON, FlashAttention.OFF)
        )
        assert flash.step_s < plain.step_s
        assert flash.prompt_s is not None
        assert plain.prompt_s is not None
        assert flash.prompt_s < plain.prompt_s
    shallow = [
        predicted(llama, "RTX 3090", 1, wish).step_s for wish in (FlashAttention.ON, FlashAttention.OFF)
    ]
    assert shallow[0] == pytest.approx(shallow[1], rel=1e-4)


# Llama 3 8B Q4_K_M, 4096 against 512 generated tokens (GPU-Benchmarks-on-LLM-Inference, May 2024, builds
# without flash attention by default); half of them are behind a token on average.
@pytest.mark.parametrize(
    ("card", "long", "short"),
    [
        ("RTX 3070", 67.01, 72.79),
        ("RTX 3080 Ti", 98.34, 110.6),
        ("RTX 4070 Ti", 78.59, 83.5),
        ("RTX 4090", 119.44, 130.58),
        ("RTX A6000", 94.82, 105.39),
        ("NVIDIA L40S", 105.5, 115.55),
        ("M2 Ultra@160GiB", 64.58, 78.81),
    ],
)
def test_a_step_without_flash_attention_takes_longer_for_each_token_of_context(
    llama_q4: ModelProfile, card: str, long: float, short: float
) -> None:
    steps = [predicted(llama_q4, card, depth, FlashAttention.OFF).step_s for depth in (2048, 256)]
    assert steps[1] / steps[0] == pytest.approx(long / short, rel=0.04)


def test_attention_of_few_heads_on_vulkan_takes_a_time_for_each_token(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = profile_of(zoo.llama(kv=4), tmp_path_factory.mktemp("kv4"))
    shallow, deep = (predicted(model, "R9700@Vulkan", n, FlashAttention.ON).step_s for n in (1, 16384))
    of_layer_s = (deep - shallow) / 32
    assert of_layer_s == pytest.approx(16383 * 9e-9)
    assert of_layer_s > 2 * 2048 * 16383 / 640e9  # K and V of a token: 2 KiB, at 640 GB/s


@pytest.mark.parametrize(
    ("card", "tokens"), [("RTX 4090", 2048 + 128), ("RX 7900 XTX@ROCm", 2048 + 128), ("M2 Ultra@160GiB", 128)]
)
def test_cuda_computes_a_window_and_its_micro_batch(
    card: str, tokens: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = profile_of(zoo.gpt_oss(layers=2, experts=4), tmp_path_factory.mktemp("window"))
    rig = what_if([card])
    wish = Workload(n_ctx=16384, parallel=1, flash_attn=FlashAttention.ON)
    attention = AttentionTimes(model, resolve_context(model, rig, wish), {rig.devices[0].kind})
    times = PlaceTimes(with_assumed_speeds(rig).devices[0])
    windowed, whole = sorted(model.layers, key=lambda layer: not layer.sliding_window)
    assert windowed.sliding_window
    assert not whole.sliding_window
    seconds = attention.prompt_s(times, windowed, 2048, 8192)
    assert seconds == pytest.approx(attention.prompt_s(times, whole, 2048, tokens))
    assert attention.decode_s(times, windowed, 1, 8192) == attention.decode_s(times, whole, 1, 128)
