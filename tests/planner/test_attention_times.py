import pytest

from tests import zoo
from tests.planner.cases import profile_of
from vram_llm.machine.detect import what_if
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import FlashAttention, SpeedEstimate, Workload


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelProfile:
    return profile_of(zoo.llama(), tmp_path_factory.mktemp("8b"))


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
