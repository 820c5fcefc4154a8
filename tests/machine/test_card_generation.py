import pytest

from tests.planner.cases import card
from vram_llm.machine.card_figures import PLAIN, backend_of_speed, figures_of
from vram_llm.machine.card_generation import ChipGeneration, generation_of
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import DeviceKind


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("Tesla P40", ChipGeneration.PASCAL),
        ("Tesla V100 PCIe@32GiB", ChipGeneration.VOLTA),
        ("RTX 2080", ChipGeneration.TURING),
        ("A100 PCIe@80GiB", ChipGeneration.AMPERE_HBM),
        ("RTX 3060@12GiB", ChipGeneration.AMPERE),
        ("RTX 4090", ChipGeneration.ADA),
        ("RTX 5090", ChipGeneration.BLACKWELL),
        ("NVIDIA GB10@110GiB", ChipGeneration.GB10),
        ("Instinct MI50@32GiB", ChipGeneration.VEGA),
        ("Instinct MI210", ChipGeneration.CDNA),
        ("Instinct MI300X", ChipGeneration.CDNA3),
        ("RX 6800 XT", ChipGeneration.RDNA2),
        ("Radeon PRO W7800@48GiB", ChipGeneration.RDNA3),
        ("Radeon 8060S@120GiB", ChipGeneration.RDNA3_5),
        ("Radeon AI PRO R9700", ChipGeneration.RDNA4),
        ("Arc B580", ChipGeneration.ARC),
        ("M4 Pro@48GiB", ChipGeneration.APPLE),
        ("M3 Ultra@90GiB", ChipGeneration.APPLE_ULTRA),
        ("24GiB@1008GB/s", None),
    ],
)
def test_a_card_of_the_catalog_has_its_generation(name: str, generation: ChipGeneration | None) -> None:
    assert generation_of(what_if([name]).devices[0]) is generation


def test_an_unknown_card_has_the_figures_of_its_back_end() -> None:
    vulkan, metal, worker = (
        card(0, 1, kind) for kind in (DeviceKind.VULKAN, DeviceKind.METAL, DeviceKind.RPC)
    )
    assert generation_of(vulkan) is None
    assert figures_of(vulkan).flops_per_byte
    assert generation_of(metal) is ChipGeneration.APPLE
    assert figures_of(worker) is PLAIN


@pytest.mark.parametrize("name", ["RX 6800 XT", "RX 7900 XTX", "Radeon 8060S@96GiB", "R9700"])
def test_a_described_card_that_names_no_back_end_has_vulkans_figures(name: str) -> None:
    either, rocm, vulkan = (what_if([f"{name}{backend}"]).devices[0] for backend in ("", "@ROCm", "@vulkan"))
    assert figures_of(either) is figures_of(vulkan)
    assert figures_of(either) != figures_of(rocm)
    assert backend_of_speed(either) is backend_of_speed(vulkan) is DeviceKind.VULKAN
    assert backend_of_speed(rocm) is DeviceKind.ROCM
    assert vulkan.kind is DeviceKind.VULKAN
    assert figures_of(vulkan).prompt_types["Q4_K"] < 1.0


@pytest.mark.parametrize("name", ["MI50 32GB", "Instinct MI100", "MI300X"])
def test_a_card_without_figures_for_vulkan_has_rocms(name: str) -> None:
    either, rocm = (what_if([f"{name}{backend}"]).devices[0] for backend in ("", "@ROCm"))
    assert figures_of(either) is figures_of(rocm)
    assert backend_of_speed(either) is DeviceKind.ROCM


@pytest.mark.parametrize(
    ("card_name", "size", "heads_per_kv", "share"),
    [
        ("RTX 4090", 128, 8, 1.1),
        ("RTX 4090", 64, 8, 0.77),  # softmax takes a larger share of a small head's time
        ("RTX 4090", 128, 1, 1.1),
        ("Tesla V100 PCIe@32GiB", 512, 16, 0.42),  # no kernel for its tensor cores
        ("R9700@ROCm", 128, 8, 0.17),
        ("R9700@ROCm", 128, 1, 0.0667),  # every query head reads K and V of its own
        ("R9700@Vulkan", 128, 1, 0.26),
    ],
)
def test_attentions_share_of_the_rate_of_prompts(
    card_name: str, size: int, heads_per_kv: int, share: float
) -> None:
    found = figures_of(what_if([card_name]).devices[0]).attention_rate(size, heads_per_kv)
    assert found == pytest.approx(share, rel=0.02)
