import pytest

from vram_llm.errors import BadHost, UnknownDevice
from vram_llm.machine.types import DeviceKind, Fact, Source
from vram_llm.machine.what_if import names_host, parse_rigs
from vram_llm.units import GIB

GIVEN, CATALOG = Source.GIVEN, Source.CATALOG


@pytest.mark.parametrize(
    ("spec", "count", "gib", "memory_source", "bandwidth"),
    [
        ("RTX 4080 Laptop", 1, 12, CATALOG, Fact(432e9, CATALOG)),
        ("2x RTX 3090 Ti", 2, 24, CATALOG, Fact(1008e9, CATALOG)),
        ("2x3090ti", 2, 24, CATALOG, Fact(1008e9, CATALOG)),
        ("3 × 4090", 3, 24, CATALOG, Fact(1008e9, CATALOG)),
        ("4*a6000", 4, 48, CATALOG, Fact(768e9, CATALOG)),
        ("7900xtx", 1, 24, CATALOG, Fact(960e9, CATALOG)),
        ("7900 XT", 1, 20, CATALOG, Fact(800e9, CATALOG)),
        ("2x7900xt", 2, 20, CATALOG, Fact(800e9, CATALOG)),
        ("24GiB", 1, 24, GIVEN, None),
        ("24g", 1, 24, GIVEN, None),
        ("2x24GiB", 2, 24, GIVEN, None),
        ("24GiB@1008GB/s", 1, 24, GIVEN, Fact(1008e9, GIVEN)),
        ("24GB", 1, 24, GIVEN, None),
        ("2 x 24 gb", 2, 24, GIVEN, None),
        ("24GB@1008GB/s", 1, 24, GIVEN, Fact(1008e9, GIVEN)),
        ("2080 Ti 22GB", 1, 22, GIVEN, Fact(616e9, CATALOG)),
        ("2x 2080Ti 22G", 2, 22, GIVEN, Fact(616e9, CATALOG)),
        ("22 GiB RTX 2080 Ti", 1, 22, GIVEN, Fact(616e9, CATALOG)),
        ("RTX 3060 12GB", 1, 12, CATALOG, Fact(360e9, CATALOG)),
        ("RTX 3080 20GB", 1, 20, GIVEN, Fact(912e9, CATALOG)),
        ("4090 48GB", 1, 48, GIVEN, Fact(1008e9, CATALOG)),
        ("4090 48GB@900GB/s", 1, 48, GIVEN, Fact(900e9, GIVEN)),
        ("2x 12 GiB @ 432 GB/s", 2, 12, GIVEN, Fact(432e9, GIVEN)),
        ("RTX 3080@10GiB", 1, 10, GIVEN, Fact(760e9, CATALOG)),
        ("RTX 3080@12GiB", 1, 12, GIVEN, Fact(912e9, CATALOG)),
        ("4090@48GiB@900GB/s", 1, 48, GIVEN, Fact(900e9, GIVEN)),
        ("4080m", 1, 12, CATALOG, Fact(432e9, CATALOG)),
        ("64x 3090", 64, 24, CATALOG, Fact(936e9, CATALOG)),
    ],
)
def test_descriptions_of_cards(
    spec: str, count: int, gib: int, memory_source: Source, bandwidth: Fact | None
) -> None:
    devices = parse_rigs([spec]).devices
    assert [device.id for device in devices] == [f"GPU{i}" for i in range(count)]
    for device in devices:
        assert device.what_if
        assert device.total_bytes == device.free_bytes == gib * GIB
        assert device.memory_source is memory_source
        assert device.bandwidth_bytes_per_s == bandwidth


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("RTX 9999", "'RTX 9999' names no single card"),
        ("0x 3090", "from 1 to 64"),
        ("65x 3090", "from 1 to 64"),
        ("9" * 150 + "x 3090", "from 1 to 64"),
        ("9" * 5000 + "x 3090", "5006 characters is too long"),
        ("RTX 9999 24GB", "'RTX 9999' names no single card"),
        ("RTX 3090 24GB 12GB", "names no single card"),
        ("4090 48GB@24GB", "names no single card"),
        ("0GiB", "0GiB is not a size"),
        ("9" * 180 + "TiB", "is not a size"),
        ("24GiB@fast", "'fast' after @"),
        ("24GiB@12GiB", "'12GiB' after @"),
        ("24GiB@1GB/s@2GB/s", "'2GB/s' after @"),
        ("24GiB@0GB/s", "0GB/s is not a bandwidth"),
        ("24GiB@/s", "/s is not a bandwidth"),
        ("3090@", "'' after @"),
        ("m2 ultra", "m2 ultra 64GB"),
        ("3090@PCIe 4 x32", "a slot is of PCIe 1 to 6"),
        ("3090@PCIe 9 x16", "a slot is of PCIe 1 to 6"),
        ("3090@x4@x8", "'x8' after @"),
        ("", "names no single card"),
        ("24", "names no single card"),
        ("2x", "names no single card"),
        ("-24GiB", "names no single card"),
    ],
)
def test_a_bad_description_is_refused_with_a_reason(spec: str, reason: str) -> None:
    with pytest.raises(UnknownDevice) as caught:
        parse_rigs([spec])
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "kind", "other"),
    [
        ("RX 7900 XTX", DeviceKind.ROCM, DeviceKind.VULKAN),
        ("RX 7900 XTX@Vulkan", DeviceKind.VULKAN, None),
        ("2x RX 7900 XTX @ rocm @ PCIe 4 x8", DeviceKind.ROCM, None),
        ("Radeon 8060S@96GiB@vulkan", DeviceKind.VULKAN, None),
        ("RTX 4090@VULKAN", DeviceKind.VULKAN, None),
        ("RTX 4090", DeviceKind.CUDA, None),
        ("24GB@1008GB/s@vulkan", DeviceKind.VULKAN, None),
        ("Arc B580@SYCL", DeviceKind.SYCL, None),
    ],
)
def test_a_description_may_name_the_back_end(spec: str, kind: DeviceKind, other: DeviceKind | None) -> None:
    device = parse_rigs([spec]).devices[0]
    assert (device.kind, device.other_kind) == (kind, other)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("RTX 4090@ROCm", "llama.cpp drives cards of NVIDIA by CUDA or Vulkan"),
        ("RX 7900 XTX@CUDA", "llama.cpp drives cards of AMD by ROCm or Vulkan"),
        ("24GB@Metal", "llama.cpp drives cards of NVIDIA by CUDA or Vulkan"),
        ("M4 Max 64GB@Vulkan", "llama.cpp drives cards of Apple by Metal"),
        ("RX 7900 XTX@ROCm@Vulkan", "neither one memory size"),
    ],
)
def test_a_back_end_that_does_not_drive_the_card_is_refused(spec: str, reason: str) -> None:
    with pytest.raises(UnknownDevice, match=reason):
        parse_rigs([spec])


def test_ids_number_all_cards_in_their_order() -> None:
    devices = parse_rigs(["RTX 4080 Laptop", "2x RTX 3090 Ti", "8GiB"]).devices
    assert [(device.id, device.total_bytes // GIB) for device in devices] == [
        ("GPU0", 12),
        ("GPU1", 24),
        ("GPU2", 24),
        ("GPU3", 8),
    ]


@pytest.mark.parametrize(
    "rigs",
    [
        ["RTX 4080 Laptop + 2x RTX 3090 Ti + 8GB"],
        ["4080m+2x3090ti", "8GB"],
        ["RTX 4080 Laptop", "RTX 3090 Ti + RTX 3090 Ti", "8GB"],
    ],
)
def test_a_plus_sign_joins_cards_and_rigs_add_up(rigs: list[str]) -> None:
    assert [device.total_bytes // GIB for device in parse_rigs(rigs).devices] == [12, 24, 24, 8]
    assert [device.id for device in parse_rigs(rigs).devices] == ["GPU0", "GPU1", "GPU2", "GPU3"]


@pytest.mark.parametrize("rig", ["4090 +", "+ 4090", "4090 + + 3060", "+"])
def test_a_plus_sign_needs_a_card_on_both_sides(rig: str) -> None:
    with pytest.raises(UnknownDevice, match='lacks a card next to a "\\+"'):
        parse_rigs([rig])


def test_a_size_that_is_not_in_the_catalog_is_left_out_of_the_name() -> None:
    assert [device.name for device in parse_rigs(["3080 + 3080 12GB + 3080 20GB"]).devices] == [
        "NVIDIA GeForce RTX 3080 10GB",
        "NVIDIA GeForce RTX 3080 12GB",
        "NVIDIA GeForce RTX 3080",
    ]


def test_the_error_for_an_unknown_card_is_one_sentence() -> None:
    with pytest.raises(UnknownDevice) as caught:
        parse_rigs(["2x RTX 9090 Ti"])
    assert str(caught.value) == (
        "'RTX 9090 Ti' names no single card of the catalog: nearest are NVIDIA GeForce RTX 3090 Ti, "
        "NVIDIA GeForce RTX 5070 Ti, NVIDIA GeForce RTX 4070 Ti; or give its memory and bandwidth: "
        "24GB@1008GB/s"
    )


def test_more_cards_than_a_plan_takes_are_refused() -> None:
    with pytest.raises(UnknownDevice, match="66 cards"):
        parse_rigs(["33x 3090", "33x 4090"])


@pytest.mark.parametrize(
    ("spec", "kind", "alignment_bytes", "row_padding"),
    [
        ("3090", DeviceKind.CUDA, 128, 512),
        ("24GiB", DeviceKind.CUDA, 128, 512),
        ("7900xtx", DeviceKind.ROCM, 128, 512),
        ("b580", DeviceKind.VULKAN, 128, 0),
        ("m2 ultra@64GiB", DeviceKind.METAL, 32, 0),
    ],
)
def test_buffers_are_those_of_the_back_end(
    spec: str, kind: DeviceKind, alignment_bytes: int, row_padding: int
) -> None:
    (device,) = parse_rigs([spec]).devices
    assert (device.kind, device.alignment_bytes, device.row_padding) == (kind, alignment_bytes, row_padding)


def test_each_of_the_catalogs_notes_appears_once() -> None:
    (note,) = parse_rigs(["2x 3080 + RTX 3080", "3090", "24GiB"]).notes
    assert note.startswith("NVIDIA GeForce RTX 3080 10GB: also made with 12 GB")


@pytest.mark.parametrize(
    ("rig", "gb_s"),
    [
        ("RTX 3090", 25.2),  # 16 lanes of generation 4
        ("RTX 5090", 25.2),  # its own generation is 5
        ("RTX 2080 Ti", 12.6),  # generation 3
        ("RTX 4060 Ti", 12.6),  # 8 lanes
        ("RTX 3090 @ PCIe 3 x4", 3.15),
        ("RTX 3090@x4", 6.3),
        ("RTX 3090@gen3", 12.6),
        ("RTX 3090@PCIe 5.0 x16", 25.2),  # the card has 4
        ("24GB@1008GB/s@PCIe 4 x8", 12.6),
        ("24GB@1008GB/s", None),
        ("RTX 5090 on Ryzen 9 9950X with 64GB", 50.4),
        ("RTX 5090 on i9-9900K with 64GB", 12.6),
    ],
)
def test_the_link_has_the_rate_of_card_and_slot(rig: str, gb_s: float | None) -> None:
    (device,) = parse_rigs([rig]).devices
    assert (device.link and device.link.bytes_per_s.value / 1e9) == (gb_s and pytest.approx(gb_s, rel=0.01))


@pytest.mark.parametrize(
    ("rig", "host_gib", "device_gib", "bandwidth"),
    [
        ("DGX Spark", 121.7, 116.8, Fact(273e9, CATALOG)),
        ("GB10", 121.7, 116.8, Fact(273e9, CATALOG)),
        ("AGX Orin 32GB", 32, 28.5, Fact(204.8e9, CATALOG)),
        ("M4 Max 64GB", 64, 48, Fact(546e9, CATALOG)),
        ("M4 Max 36GB", 36, 27, Fact(410e9, CATALOG)),  # the version on sale with 36 GB
        ("M4 Max on 64GB", 64, 48, Fact(546e9, CATALOG)),
        ("M1 16GB", 16, 10.7, Fact(68.3e9, CATALOG)),  # two thirds
        ("m2 ultra@64GiB@700GB/s", 64, 48, Fact(700e9, GIVEN)),
        ("Ryzen AI Max+ 395 128GB", 128, 123, Fact(256e9, CATALOG)),
        ("Strix Halo@96GB", 96, 91.5, Fact(256e9, CATALOG)),
        ("Radeon 780M on 2x32GB DDR5-4800", 64, 60, Fact(76.8e9, CATALOG)),
    ],
)
def test_a_computer_whose_graphics_use_its_memory(
    rig: str, host_gib: float, device_gib: float, bandwidth: Fact
) -> None:
    found = parse_rigs([rig])
    (device,), host = found.devices, found.host
    assert host is not None
    assert (host.what_if, device.what_if, device.shares_host_memory) == (True, True, True)
    assert host.total_bytes / GIB == pytest.approx(host_gib, abs=0.05)
    assert device.free_bytes / GIB == pytest.approx(device_gib, abs=0.05)
    assert device.bandwidth_bytes_per_s == host.bandwidth_bytes_per_s == bandwidth
    assert any("from one pool" in note for note in found.notes)


def test_a_card_next_to_graphics_has_its_own_memory() -> None:
    found = parse_rigs(["Ryzen AI Max+ 395 128GB + RTX 3090"])
    assert [device.shares_host_memory for device in found.devices] == [True, False]
    assert found.host is not None
    assert found.host.cpu_name == "AMD Ryzen AI Max+ 395"


@pytest.mark.parametrize(
    ("rigs", "reason"),
    [
        (["RTX 3090 on"], 'lacks a host after "on"'),
        (["RTX 3090 on 7950X"], "lacks the size of its memory"),
        (["RTX 3090 on 64GB", "RTX 3060 on 64GB"], "described by '64GB' and by '64GB'"),
        (["2x DGX Spark"], "each is a computer of its own"),
        (["DGX Spark + M4 Max 64GB"], "each is a computer of its own"),
        (["M4 Max 64GB on 64GB"], "given twice"),
    ],
)
def test_a_rig_has_one_host(rigs: list[str], reason: str) -> None:
    with pytest.raises(BadHost, match=reason):
        parse_rigs(rigs)


@pytest.mark.parametrize(
    ("rig", "is_named"),
    [("RTX 3090", False), ("RTX 3090 on 64GB", True), ("DGX Spark", True), ("on 64GB", True)],
)
def test_whether_a_rig_names_its_host(rig: str, is_named: bool) -> None:
    assert names_host(rig) is is_named
