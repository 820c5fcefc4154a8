import dataclasses

import pytest

from vram_llm.machine.datasheet_speed import pcie_link, speed_from_datasheet, with_datasheet_speeds
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import DeviceKind, Fact, Source
from vram_llm.machine.what_if import parse_rigs

# Published llama-bench figures of single cards, Llama 3 8B at 512 generated tokens: (card, bytes read per
# token, tokens per second). GPU-Benchmarks-on-LLM-Inference, May 2024; RTX 3090 with BF16 and Q4_0: llama.cpp
# pull requests 14262 and 15802, 2025; RX 7900 XTX: pull request 26284.
Q4_K_M, F16, Q4_0, Q8_0_70B = 4.66e9, 15.04e9, 4.35e9, 41.9e9
PUBLISHED = [
    ("RTX 3090", F16, 47.40),
    ("RTX 3090", F16, 58.27),
    ("RTX 3090", Q4_0, 156.56),
    ("RTX 4080", Q4_K_M, 108.15),
    ("RTX 4080", F16, 40.58),
    ("RTX 4090", Q4_K_M, 130.58),
    ("RTX 4090", F16, 54.84),
    ("RTX A6000", F16, 40.25),
    ("RTX 6000 Ada", F16, 51.97),
    ("L40S", F16, 43.42),
    ("A100 PCIe 80GB", F16, 54.56),
    ("H100 PCIe", F16, 67.79),
    ("M2 Ultra@192GiB", Q4_K_M, 78.81),
    ("M2 Ultra@192GiB", F16, 36.90),
    ("RX 7900 XTX", Q4_K_M, 105.8),
]


@pytest.mark.parametrize(("card", "n_bytes", "tokens_per_s"), PUBLISHED)
def test_decode_speeds_are_close_to_published_figures(card: str, n_bytes: float, tokens_per_s: float) -> None:
    speed = speed_from_datasheet(parse_rigs([card]).devices[0])
    assert speed is not None
    seconds = n_bytes / speed.read_bytes_per_s.value + 32 * speed.layer_overhead_s.value
    assert seconds == pytest.approx(1 / tokens_per_s, rel=0.25)


@pytest.mark.parametrize(
    ("card", "tokens_per_s"),
    [
        ("RTX 3070", 2402),
        ("RTX 3080", 3729),
        ("RTX 3090", 4030),
        ("RTX 4090", 10359),  # pull request 7676, 2024
        ("RX 7900 XTX", 3227),  # pull request 26284
        ("M2 Ultra@192GiB", 994),
    ],
)
def test_prompt_speeds_are_close_to_published_figures(card: str, tokens_per_s: float) -> None:
    speed = speed_from_datasheet(parse_rigs([card]).devices[0])
    assert speed is not None
    assert speed.prompt_flops_per_s is not None
    assert speed.prompt_flops_per_s.value / (2 * 7.5e9) == pytest.approx(tokens_per_s, rel=0.25)


def test_decode_figures_have_the_source_catalog_and_flops_are_estimated() -> None:
    speed = what_if(["RTX 3090 Ti"]).devices[0].speed
    assert speed is not None
    assert speed.read_bytes_per_s.source is Source.CATALOG
    assert 0 < speed.read_bytes_per_s.value < 1008e9
    assert speed.prompt_flops_per_s is not None
    assert speed.prompt_flops_per_s.source is Source.ESTIMATED


def test_a_card_of_unknown_generation_has_no_flops() -> None:
    speed = what_if(["24GiB@1008GB/s"]).devices[0].speed
    assert speed is not None
    assert speed.read_bytes_per_s.source is Source.GIVEN
    assert speed.prompt_flops_per_s is None
    assert speed.row_flops_per_s is None


def test_a_card_without_a_bandwidth_and_a_worker_have_no_speed() -> None:
    assert what_if(["24GiB"]).devices[0].speed is None
    (card,) = parse_rigs(["RTX 3090"]).devices
    worker = dataclasses.replace(card, kind=DeviceKind.RPC, bandwidth_bytes_per_s=Fact(1e9, Source.GIVEN))
    assert speed_from_datasheet(worker) is None


def test_a_measured_speed_stays() -> None:
    machine = what_if(["RTX 3090"])
    found = machine.devices[0].speed
    assert found is not None
    measured = dataclasses.replace(found, read_bytes_per_s=Fact(1e9, Source.MEASURED))
    device = dataclasses.replace(machine.devices[0], speed=measured)
    assert with_datasheet_speeds(dataclasses.replace(machine, devices=(device,))).devices[0].speed is measured


def test_every_card_of_the_catalog_with_a_bandwidth_gets_all_figures() -> None:
    from vram_llm.machine.catalog import cards

    for card in cards():
        if card.bandwidth_bytes_per_s is None:
            continue
        memory = "" if card.memory_gib else "@64GiB"
        speed = what_if([card.label + memory]).devices[0].speed
        assert speed is not None, card.label
        assert speed.row_flops_per_s is not None, card.label
        assert speed.prompt_flops_per_s is not None, card.label


def test_the_link_has_the_rate_of_the_slot() -> None:
    link = what_if(["RTX 3090"]).devices[0].link
    assert link is not None
    assert 20e9 < link.bytes_per_s.value < 31.5e9
    assert pcie_link(None, 16) is None
    assert pcie_link(4, None) is None
    assert what_if(["24GiB"]).devices[0].link is None
