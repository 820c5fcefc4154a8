import pytest

from vram_llm.errors import BadHost, UnknownDevice
from vram_llm.machine.types import Fact, Host, Source
from vram_llm.machine.what_if_host import HostDescription, parse_description, parse_disk, parse_host
from vram_llm.units import GIB

GIVEN, CATALOG, ASSUMED = Source.GIVEN, Source.CATALOG, Source.ASSUMED


def host(ram: str, cpu: str | None = None) -> Host:
    return parse_host(HostDescription(ram=ram, cpu=cpu)).host


@pytest.mark.parametrize(
    ("ram", "gib", "kind", "bandwidth"),
    [
        ("64GiB", 64, None, None),
        ("64GB", 64, None, None),  # as makers write it
        ("64 gb", 64, None, None),
        ("0.5TiB", 512, None, None),
        ("64GiB@80GB/s", 64, None, Fact(80e9, GIVEN)),
        ("64GiB DDR5-6000 2ch", 64, "DDR5-6000 2ch", Fact(96e9, GIVEN)),
        ("64GiB DDR5-6000 2ch@80GB/s", 64, "DDR5-6000 2ch", Fact(80e9, GIVEN)),
        ("64GB DDR4 3200MHz quad channel ECC", 64, "DDR4-3200 4ch", Fact(102.4e9, GIVEN)),
        ("32GB LPDDR5X-8533 256 bit", 32, "LPDDR5X-8533 4ch", Fact(273.056e9, GIVEN)),
        ("64GiB DDR5-6000", 64, "DDR5-6000 2ch", Fact(96e9, ASSUMED)),
        ("64GiB DDR5 8ch", 64, "DDR5-4800 8ch", Fact(307.2e9, ASSUMED)),
        ("2x32GB DDR5-6000", 64, "DDR5-6000 2ch", Fact(96e9, CATALOG)),
        ("1x16GB DDR4-3200", 16, "DDR4-3200 1ch", Fact(25.6e9, CATALOG)),
        ("4 x 16GB DDR4-3200", 64, "DDR4-3200 2ch", Fact(51.2e9, ASSUMED)),
    ],
)
def test_descriptions_of_memory(ram: str, gib: float, kind: str | None, bandwidth: Fact | None) -> None:
    found = host(ram)
    assert (found.what_if, found.total_bytes, found.memory_kind) == (True, gib * GIB, kind)
    assert found.bandwidth_bytes_per_s == bandwidth
    assert found.cores == 8


@pytest.mark.parametrize(
    ("cpu", "ram", "cores", "kind", "bandwidth"),
    [
        ("Ryzen 9 7950X", "64GB", (32, 16, 1), "DDR5-5200 2ch", Fact(83.2e9, CATALOG)),
        ("7950x", "64GB DDR5-6000", (32, 16, 1), "DDR5-6000 2ch", Fact(96e9, CATALOG)),
        ("7950x", "64GB DDR5-6000 2ch", (32, 16, 1), "DDR5-6000 2ch", Fact(96e9, GIVEN)),
        ("i9-13900K", "64GB DDR4", (32, 24, 1), "DDR4-3200 2ch", Fact(51.2e9, CATALOG)),
        ("2x EPYC 7763", "512GB", (256, 128, 2), "DDR4-3200 16ch", Fact(409.6e9, CATALOG)),
        ("EPYC 7763", "4x32GB", (128, 64, 1), "DDR4-3200 4ch", Fact(102.4e9, CATALOG)),
        ("M4 Max", "64GB", (16, 16, 1), "LPDDR5X-8533", Fact(546e9, CATALOG)),
        ("16 cores", "64GB", (16, 16, 1), None, None),
        ("16 cores, 32 threads", "64GB", (32, 16, 1), None, None),
        ("8c/16t", "64GB", (16, 8, 1), None, None),
    ],
)
def test_a_processor_completes_the_kind_of_memory(
    cpu: str, ram: str, cores: tuple[int, int, int], kind: str | None, bandwidth: Fact | None
) -> None:
    found = host(ram, cpu)
    assert (found.cores, found.physical_cores, found.numa_nodes) == cores
    assert (found.memory_kind, found.bandwidth_bytes_per_s) == (kind, bandwidth)


def test_instructions_are_the_catalogs_or_the_users() -> None:
    assert host("64GB", "7950X").instructions == ("avx2", "avx512")
    assert host("64GB", "16 cores AVX-512").instructions == ("avx512",)
    assert host("64GB", "16 cores").instructions is None


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("64GiB DDR4-3200 2ch", HostDescription(ram="64GiB DDR4-3200 2ch")),
        ("64GiB, DDR4-3200 2ch", HostDescription(ram="64GiB DDR4-3200 2ch")),
        ("Ryzen 9 7950X with 64GiB", HostDescription(cpu="Ryzen 9 7950X", ram="64GiB")),
        ("7950X 2x32GB DDR5-6000", HostDescription(cpu="7950X", ram="2x32GB DDR5-6000")),
        ("2x EPYC 7763, 512GB, 7GB/s", HostDescription(cpu="2x EPYC 7763", ram="512GB", disk="7GB/s")),
        ("64GiB@80GB/s, NVMe 7GB/s", HostDescription(ram="64GiB@80GB/s", disk="NVMe 7GB/s")),
        ("16 cores", HostDescription(cpu="16 cores")),
    ],
)
def test_a_description_is_split_into_its_parts(text: str, description: HostDescription) -> None:
    assert parse_description(text) == description


@pytest.mark.parametrize(
    ("ram", "cpu", "reason"),
    [
        ("lots", None, "not a size of memory; write memory like 64GiB"),
        ("64", None, "not a size of memory"),
        ("0GiB", None, "from 512 MiB to 64.0 TiB, not 0 B"),
        ("9" * 18 + "TiB", None, "from 512 MiB"),
        ("9" * 50 + "GiB", None, "is not a size"),
        ("64GiB DDR7-6000", None, "DDR7 is not one of DDR3"),
        ("64GiB DDR5-600", None, "made for 800 to 10600 MT/s, not for 600"),
        ("64GiB DDR4 DDR5", None, "DDR4 and DDR5 are both given"),
        ("64GiB DDR5-6000 99ch", None, "1 to 48 channels, not 99"),
        ("64GiB 2ch 128 bit", None, "2ch and 128 bit are both given"),
        ("64GiB of good memory", None, "'good' is no kind of memory"),
        ("64GiB@fast", None, "is not a bandwidth"),
        ("64GiB@80GB/s@90GB/s", None, "more than one bandwidth"),
        ("64GiB@1B/s", None, "not a bandwidth of memory"),
        ("64GB DDR4-3200", "7950X", "AMD Ryzen 9 7950X takes DDR5, not DDR4"),
        ("64GB 4ch", "7950X", "has 2 channels of memory, not 4"),
        ("64GB", "0 cores", "from 1 to 1024 cores"),
        ("64GB", "16 cores 8 threads", "from 1 to 1024 cores"),
        ("64GB", "9x EPYC 7763", "from 1 to 8 processors, not 9"),
        (None, "7950X", "lacks the size of its memory"),
    ],
)
def test_a_bad_description_is_refused_with_a_reason(ram: str | None, cpu: str | None, reason: str) -> None:
    with pytest.raises(BadHost) as caught:
        parse_host(HostDescription(ram=ram, cpu=cpu))
    assert reason in str(caught.value)
    assert caught.value.exit_code == 64


@pytest.mark.parametrize("text", ["fast", "0GB/s", "7GB", "-7GB/s", "9999TB/s", ""])
def test_a_bad_speed_of_a_disk_is_refused(text: str) -> None:
    with pytest.raises(BadHost, match="write it like 7GB/s"):
        parse_disk(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("64GiB, 32GiB", "'64GiB' and '32GiB' are both taken for the memory"),
        ("7950X, 13900K, 64GiB", "'7950X' and '13900K' are both taken for the processor"),
        ("9" * 300, "300 characters is too long"),
    ],
)
def test_a_part_that_is_given_twice_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadHost, match=reason):
        parse_description(text)


def test_the_error_for_an_unknown_processor_gives_close_names() -> None:
    with pytest.raises(UnknownDevice, match="nearest are AMD Ryzen 9 7950X"):
        host("64GB", "Ryzen 9 7950Q")


def test_the_system_uses_a_part_of_the_memory() -> None:
    found = host("64GiB")
    assert found.in_use_bytes == 4 * GIB  # a 64th, and 3 GiB
    assert (
        parse_host(HostDescription(ram="64GiB"))
        .notes[0]
        .startswith("of the host's 64.0 GiB, 4.00 GiB are left")
    )
    assert host("2GiB").available_bytes == 0


def test_notes_name_assumptions() -> None:
    assert "8 cores are assumed" in parse_host(HostDescription(ram="64GiB")).notes[-1]
    notes = parse_host(HostDescription(ram="64GiB DDR5")).notes
    assert "DDR5-4800, 2 channels and 8 cores are assumed" in notes[-1]
    assert len(parse_host(HostDescription(ram="64GiB", cpu="7950X")).notes) == 1


@pytest.mark.parametrize(
    ("ram", "cpu", "name"),
    [
        ("64GB DDR5-6000 2ch", None, "64 GiB DDR5-6000 2ch"),
        ("64GB@80GB/s", None, "64 GiB 80 GB/s"),
        ("64GB", "Ryzen 9 7950X", "Ryzen 9 7950X, 64 GiB DDR5-5200 2ch"),
        ("512GB", "2x EPYC 7763", "2x EPYC 7763, 512 GiB DDR4-3200 16ch"),
        ("64GB", "16 cores", "16 cores, 64 GiB"),
    ],
)
def test_the_hosts_name_describes_it(ram: str, cpu: str | None, name: str) -> None:
    assert host(ram, cpu).name == name
