import pytest

from vram_llm.errors import UnknownDevice
from vram_llm.machine import catalog
from vram_llm.machine.types import DeviceKind
from vram_llm.units import GIB, MIB

SPELLINGS = [
    # as NVIDIA's driver prints them
    ("NVIDIA GeForce RTX 4080 Laptop GPU", "NVIDIA GeForce RTX 4080 Laptop GPU"),
    ("NVIDIA GeForce RTX 4080", "NVIDIA GeForce RTX 4080"),
    ("NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 3090 Ti"),
    ("GeForce RTX 2080 Ti", "NVIDIA GeForce RTX 2080 Ti"),
    ("NVIDIA GeForce GTX 1060 3GB", "NVIDIA GeForce GTX 1060 3GB"),
    ("NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 D"),
    ("NVIDIA GeForce RTX 4070 Ti SUPER", "NVIDIA GeForce RTX 4070 Ti SUPER"),
    ("NVIDIA TITAN RTX", "NVIDIA TITAN RTX"),
    ("NVIDIA TITAN Xp", "NVIDIA TITAN Xp"),
    ("Quadro RTX 6000", "NVIDIA Quadro RTX 6000"),
    ("NVIDIA RTX A6000", "NVIDIA RTX A6000"),
    ("NVIDIA RTX A2000 12GB", "NVIDIA RTX A2000 12GB"),
    ("NVIDIA RTX 6000 Ada Generation", "NVIDIA RTX 6000 Ada Generation"),
    (
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition",
    ),
    ("Tesla T4", "NVIDIA Tesla T4"),
    ("Tesla P40", "NVIDIA Tesla P40"),
    ("Tesla P100-PCIE-16GB", "NVIDIA Tesla P100 PCIe 16GB"),
    ("Tesla V100-SXM2-32GB", "NVIDIA Tesla V100 SXM2 32GB"),
    ("NVIDIA A100-SXM4-40GB", "NVIDIA A100 SXM4 40GB"),
    ("NVIDIA A100-PCIE-40GB", "NVIDIA A100 PCIe 40GB"),
    ("NVIDIA A100 80GB PCIe", "NVIDIA A100 PCIe 80GB"),
    ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM5"),
    ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"),
    ("NVIDIA H100 NVL", "NVIDIA H100 NVL"),
    ("NVIDIA H200", "NVIDIA H200 SXM"),
    ("NVIDIA GH200 480GB", "NVIDIA GH200"),
    ("NVIDIA L40S", "NVIDIA L40S"),
    ("NVIDIA A10G", "NVIDIA A10G"),
    ("NVIDIA GB10", "NVIDIA GB10"),
    # as Vulkan and ROCm drivers print them
    ("AMD Radeon RX 7900 XTX (RADV NAVI31)", "AMD Radeon RX 7900 XTX"),
    ("AMD Instinct MI300X", "AMD Instinct MI300X"),
    ("Intel(R) Arc(TM) A770 Graphics (DG2)", "Intel Arc A770 16GB"),
    ("Intel(R) Arc(TM) B580 Graphics", "Intel Arc B580"),
    # as people type them
    ("4080 laptop", "NVIDIA GeForce RTX 4080 Laptop GPU"),
    ("RTX 4080 Laptop", "NVIDIA GeForce RTX 4080 Laptop GPU"),
    ("4080m", "NVIDIA GeForce RTX 4080 Laptop GPU"),
    ("4080 mobile", "NVIDIA GeForce RTX 4080 Laptop GPU"),
    ("laptop 4080", "NVIDIA GeForce RTX 4080 Laptop GPU"),
    ("4080", "NVIDIA GeForce RTX 4080"),
    ("4080s", "NVIDIA GeForce RTX 4080 SUPER"),
    ("4080 super", "NVIDIA GeForce RTX 4080 SUPER"),
    ("3080 ti laptop", "NVIDIA GeForce RTX 3080 Ti Laptop GPU"),
    ("3090", "NVIDIA GeForce RTX 3090"),
    ("3090ti", "NVIDIA GeForce RTX 3090 Ti"),
    ("3090 TI", "NVIDIA GeForce RTX 3090 Ti"),
    ("RTX3090Ti", "NVIDIA GeForce RTX 3090 Ti"),
    ("rtx-3090-ti", "NVIDIA GeForce RTX 3090 Ti"),
    ("rtx4090", "NVIDIA GeForce RTX 4090"),
    ("4090d", "NVIDIA GeForce RTX 4090 D"),
    ("geforce 5090", "NVIDIA GeForce RTX 5090"),
    ("4070tis", "NVIDIA GeForce RTX 4070 Ti SUPER"),
    ("gtx1080ti", "NVIDIA GeForce GTX 1080 Ti"),
    ("1080 Ti 11GB", "NVIDIA GeForce GTX 1080 Ti"),
    ("3080", "NVIDIA GeForce RTX 3080 10GB"),
    ("3080 12gb", "NVIDIA GeForce RTX 3080 12GB"),
    ("RTX 3080-12G", "NVIDIA GeForce RTX 3080 12GB"),
    ("3060", "NVIDIA GeForce RTX 3060 12GB"),
    ("4060 ti", "NVIDIA GeForce RTX 4060 Ti 8GB"),
    ("4060ti16gb", "NVIDIA GeForce RTX 4060 Ti 16GB"),
    ("4060 Ti 16 GiB", "NVIDIA GeForce RTX 4060 Ti 16GB"),
    ("titan rtx", "NVIDIA TITAN RTX"),
    ("titan v", "NVIDIA TITAN V"),
    ("a6000", "NVIDIA RTX A6000"),
    ("6000 ada", "NVIDIA RTX 6000 Ada Generation"),
    ("rtx pro 6000", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"),
    ("rtx pro 6000 max-q", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition"),
    ("rtx 8000", "NVIDIA Quadro RTX 8000"),
    ("a100", "NVIDIA A100 SXM4 80GB"),
    ("a100 40gb", "NVIDIA A100 SXM4 40GB"),
    ("h100", "NVIDIA H100 SXM5"),
    ("H100-80GB", "NVIDIA H100 SXM5"),
    ("h200", "NVIDIA H200 SXM"),
    ("v100 32gb", "NVIDIA Tesla V100 SXM2 32GB"),
    ("p40", "NVIDIA Tesla P40"),
    ("nvidia t4", "NVIDIA Tesla T4"),
    ("l4", "NVIDIA L4"),
    ("dgx spark", "NVIDIA GB10"),
    ("7900xtx", "AMD Radeon RX 7900 XTX"),
    ("7900 xt", "AMD Radeon RX 7900 XT"),
    ("rx 7900 gre", "AMD Radeon RX 7900 GRE"),
    ("9070xt", "AMD Radeon RX 9070 XT"),
    ("w7900", "AMD Radeon PRO W7900"),
    ("mi50 32gb", "AMD Instinct MI50 32GB"),
    ("mi300x", "AMD Instinct MI300X"),
    ("arc b580", "Intel Arc B580"),
    ("a770", "Intel Arc A770 16GB"),
    ("m2 ultra", "Apple M2 Ultra"),
    ("M2Ultra", "Apple M2 Ultra"),
    ("Apple M1", "Apple M1"),
]


@pytest.mark.parametrize(("text", "label"), SPELLINGS)
def test_a_card_is_found_by_its_usual_spellings(text: str, label: str) -> None:
    assert catalog.find_card(text).label == label


def test_laptop_and_desktop_are_never_confused() -> None:
    laptops = [card for card in catalog.cards() if "Laptop" in card.name]
    assert len(laptops) > 10
    for card in laptops:
        desktop = card.name.removesuffix(" Laptop GPU")
        assert desktop != card.name
        short = desktop.removeprefix("NVIDIA GeForce ")
        for text in (card.name, f"{short} Laptop", f"{short} mobile", f"laptop {short}"):
            assert catalog.find_card(text).name == card.name
        try:
            found = catalog.find_card(short)
        except UnknownDevice:  # there is no desktop card of that name
            continue
        assert "Laptop" not in found.name


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("RTX 5080 Tee", "NVIDIA GeForce RTX 5080"),
        ("gtx 3090", "NVIDIA GeForce RTX 3090"),  # no such card
        ("radeon 4090", "NVIDIA GeForce RTX 4090"),
        ("3080 24GB", "NVIDIA GeForce RTX 3080 12GB"),
        ("rtx 6000", "NVIDIA RTX 6000 Ada Generation"),  # three cards of three generations
        ("rtx 6000", "NVIDIA Quadro RTX 6000"),
        ("titan", "NVIDIA TITAN V"),
        ("3090 Ti laptop", "NVIDIA GeForce RTX 3090 Ti"),
    ],
)
def test_the_error_for_an_unknown_card_gives_close_names_and_the_free_form(text: str, nearest: str) -> None:
    with pytest.raises(UnknownDevice) as caught:
        catalog.find_card(text)
    message = str(caught.value)
    assert nearest in message
    assert message.split("nearest are ")[1].split("; or")[0].count(", ") == 2
    assert message.endswith("or give its memory and bandwidth: 24GB@1008GB/s")


@pytest.mark.parametrize("text", ["", " ", "gpu", "rtx", "nvidia", "24gb", "x", "\0", "3" * 100_000])
def test_a_text_that_is_no_name_is_refused_in_a_short_sentence(text: str) -> None:
    with pytest.raises(UnknownDevice) as caught:
        catalog.find_card(text)
    assert len(str(caught.value)) < 300


def test_every_row_is_plausible_and_found_by_each_of_its_names() -> None:
    rows = catalog.cards()
    assert len(rows) >= 80
    makers = [row.name.split()[0] for row in rows]
    assert min(makers.count(maker) for maker in ("NVIDIA", "AMD", "Intel", "Apple")) >= 5
    assert len({row.label for row in rows}) == len(rows)
    for row in rows:
        assert row.source
        assert catalog.find_card(row.label).memory_gib == row.memory_gib
        for spelling in (row.name, *row.aliases):
            assert catalog.find_card(spelling).name == row.name
        assert (row.compute_capability is not None) == (row.kind is DeviceKind.CUDA)
        if row.memory_bytes is not None and row.memory_gib is not None:
            assert 0.93 * row.memory_gib * GIB < row.memory_bytes <= row.memory_gib * GIB
        if row.bandwidth_bytes_per_s is not None:
            assert 60e9 < row.bandwidth_bytes_per_s <= 8000e9


def test_the_figures_of_a_row() -> None:
    card = catalog.find_card("RTX 3090 Ti")
    assert card.memory_bytes == 24 * GIB
    assert card.bandwidth_bytes_per_s == 1008e9
    assert (card.compute_capability, card.pcie_generation, card.pcie_lanes) == ("8.6", 4, 16)
    assert catalog.find_card("H200").memory_bytes == 143_771 * MIB
    assert catalog.find_card("m3 max").bandwidth_bytes_per_s is None


def test_a_card_of_several_sizes_has_a_note_unless_the_size_is_given() -> None:
    assert "12 GB" in (catalog.find_card("3080").note or "")
    assert catalog.find_card("3080 10GB").note is None
    assert catalog.find_card("3080", memory_bytes=12 * GIB).label.endswith("12GB")
