import pytest

from tests.planner.cases import card
from vram_llm.machine.card_figures import PLAIN, figures_of
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
