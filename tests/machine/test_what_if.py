import pytest

from vram_llm.errors import UnknownDevice
from vram_llm.machine.types import DeviceKind, Fact, Source
from vram_llm.machine.what_if import notes, parse_gpu, parse_gpus
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
        ("Ryzen AI Max+ 395@96GB", 1, 96, GIVEN, Fact(256e9, CATALOG)),
        ("2x 12 GiB @ 432 GB/s", 2, 12, GIVEN, Fact(432e9, GIVEN)),
        ("RTX 3080@10GiB", 1, 10, GIVEN, Fact(760e9, CATALOG)),
        ("RTX 3080@12GiB", 1, 12, GIVEN, Fact(912e9, CATALOG)),
        ("4090@48GiB@900GB/s", 1, 48, GIVEN, Fact(900e9, GIVEN)),
        ("m2 ultra@64GiB", 1, 64, GIVEN, Fact(800e9, CATALOG)),
        ("4080m", 1, 12, CATALOG, Fact(432e9, CATALOG)),
        ("64x 3090", 64, 24, CATALOG, Fact(936e9, CATALOG)),
    ],
)
def test_cards_as_people_write_them(
    spec: str, count: int, gib: int, memory_source: Source, bandwidth: Fact | None
) -> None:
    devices = parse_gpu(spec)
    assert [device.id for device in devices] == [f"GPU{i}" for i in range(count)]
    for device in devices:
        assert device.what_if
        assert device.total_bytes == device.free_bytes == gib * GIB
        assert device.memory_source is memory_source
        assert device.bandwidth_bytes_per_s == bandwidth


@pytest.mark.parametrize(
    ("spec", "part"),
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
        ("m2 ultra", "m2 ultra@64GB"),
        ("", "names no single card"),
        ("24", "names no single card"),
        ("2x", "names no single card"),
        ("-24GiB", "names no single card"),
    ],
)
def test_what_is_no_card_is_refused_with_the_reason(spec: str, part: str) -> None:
    with pytest.raises(UnknownDevice) as caught:
        parse_gpu(spec)
    assert part in str(caught.value)


def test_ids_run_through_all_specs_in_the_order_given() -> None:
    devices = parse_gpus(["RTX 4080 Laptop", "2x RTX 3090 Ti", "8GiB"])
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
    assert [device.total_bytes // GIB for device in parse_gpus(rigs)] == [12, 24, 24, 8]
    assert [device.id for device in parse_gpus(rigs)] == ["GPU0", "GPU1", "GPU2", "GPU3"]


@pytest.mark.parametrize("rig", ["4090 +", "+ 4090", "4090 + + 3060", "+"])
def test_a_plus_sign_needs_a_card_on_both_sides(rig: str) -> None:
    with pytest.raises(UnknownDevice, match='lacks a card next to a "\\+"'):
        parse_gpus([rig])


def test_a_size_that_no_make_has_is_left_out_of_the_name() -> None:
    assert [device.name for device in parse_gpus(["3080 + 3080 12GB + 3080 20GB"])] == [
        "NVIDIA GeForce RTX 3080 10GB",
        "NVIDIA GeForce RTX 3080 12GB",
        "NVIDIA GeForce RTX 3080",
    ]


def test_an_unknown_card_gets_one_sentence() -> None:
    with pytest.raises(UnknownDevice) as caught:
        parse_gpus(["2x RTX 9090 Ti"])
    assert str(caught.value) == (
        "'RTX 9090 Ti' names no single card of the catalog: nearest are NVIDIA GeForce RTX 3090 Ti, "
        "NVIDIA GeForce RTX 5070 Ti, NVIDIA GeForce RTX 4070 Ti; or give its memory and bandwidth: "
        "24GB@1008GB/s"
    )


def test_too_many_cards_in_all_are_refused() -> None:
    with pytest.raises(UnknownDevice, match="66 cards"):
        parse_gpus(["33x 3090", "33x 4090"])


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
    (device,) = parse_gpu(spec)
    assert (device.kind, device.alignment_bytes, device.row_padding) == (kind, alignment_bytes, row_padding)


def test_the_catalogs_notes_come_once() -> None:
    (note,) = notes(["2x 3080 + RTX 3080", "3090", "24GiB"])
    assert note.startswith("NVIDIA GeForce RTX 3080 10GB: also made with 12 GB")
