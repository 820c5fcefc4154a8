import pytest

from vram_llm.errors import UnknownDevice
from vram_llm.machine import catalog
from vram_llm.machine.processors import find_processor, processor_with_graphics, processors

SPELLINGS = [
    # as kernels print them
    ("AMD Ryzen 9 7950X 16-Core Processor", "AMD Ryzen 9 7950X"),
    ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
    ("AMD Ryzen Threadripper PRO 5975WX 32-Cores", "AMD Ryzen Threadripper PRO 5975WX"),
    ("AMD Ryzen AI 9 HX 370 w/ Radeon 890M", "AMD Ryzen AI 9 HX 370"),
    ("13th Gen Intel(R) Core(TM) i9-13900K", "Intel Core i9-13900K"),
    ("Intel(R) Core(TM) i9-9900K CPU @ 3.60GHz", "Intel Core i9-9900K"),
    ("Intel(R) Core(TM) Ultra 9 285K", "Intel Core Ultra 9 285K"),
    ("Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz", "Intel Xeon E5-2690 v4"),
    ("INTEL(R) XEON(R) PLATINUM 8480+", "Intel Xeon Platinum 8480+"),
    ("Apple M4 Max", "Apple M4 Max"),
    # as people type them
    ("7950x", "AMD Ryzen 9 7950X"),
    ("ryzen 5800x3d", "AMD Ryzen 7 5800X3D"),
    ("13900k", "Intel Core i9-13900K"),
    ("i7 14700kf", "Intel Core i7-14700K"),
    ("epyc 7302p", "AMD EPYC 7302"),
    ("threadripper 7970x", "AMD Ryzen Threadripper 7970X"),
    ("w9-3495x", "Intel Xeon w9-3495X"),
    ("m4max", "Apple M4 Max"),
    ("strix halo", "AMD Ryzen AI Max+ 395"),
    ("dgx spark", "NVIDIA GB10"),
]


@pytest.mark.parametrize(("text", "name"), SPELLINGS)
def test_a_processor_is_found_by_its_usual_spellings(text: str, name: str) -> None:
    assert find_processor(text).name == name


def test_every_row_is_found_by_its_names_and_is_plausible() -> None:
    for processor in processors():
        size = processor.memory_gib[0] if processor.memory_gib else None
        for spelling in (processor.name, *processor.aliases):
            assert find_processor(spelling, size).name == processor.name, spelling
        assert processor.cores <= processor.threads <= 2 * processor.cores, processor.name
        assert processor.memory, processor.name
        assert all(kind.generation and kind.rate_mts for kind in processor.memory), processor.name
        assert processor.channels or processor.bandwidth_bytes_per_s, processor.name
        assert processor.source, processor.name
        assert set(processor.instructions) <= {
            "avx", "avx2", "avx512", "amx", "neon", "dotprod", "i8mm", "sve"
        }, processor.name  # fmt: skip


def test_the_makers_bandwidth_is_close_to_the_rule() -> None:
    """Channels x rate x 8 bytes, for processors whose maker gives all of these."""
    for processor in processors():
        if processor.channels and processor.bandwidth_bytes_per_s:
            rate_mts = processor.memory[0].rate_mts
            assert rate_mts is not None
            by_rule = processor.channels * rate_mts * 8e6
            assert processor.bandwidth_bytes_per_s == pytest.approx(by_rule, rel=0.02), processor.name


def test_graphics_of_processors_are_cards_that_share_memory() -> None:
    cards = {card.name: card for card in catalog.cards()}
    named = {processor.graphics for processor in processors()} - {None}
    assert all(cards[name or ""].shares_host_memory for name in named)
    sharing = {card.name for card in cards.values() if card.shares_host_memory}
    assert sharing - named == {"AMD Instinct MI300A"}


def test_the_memory_size_decides_the_version() -> None:
    versions = [processor_with_graphics("Apple M4 Max", gib) for gib in (36, 64)]
    assert [version and version.cores for version in versions] == [14, 16]
    assert processor_with_graphics("NVIDIA GeForce RTX 3090") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("7900X", "may be AMD Ryzen 9 7900X or Intel Core i9-7900X; write the name in full"),
        ("Core i9-13900Q", "nearest are Intel Core i9-13900"),
        ("EPYC", "names no single processor"),
        ("", "names no single processor"),
        ("x" * 100, "100 characters is not a processor"),
    ],
)
def test_an_unknown_processor_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UnknownDevice, match=reason):
        find_processor(text)
