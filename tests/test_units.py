import pytest

from vram_llm.units import (
    format_bytes,
    format_count,
    format_mib,
    parse_bytes,
    parse_bytes_per_s,
    parse_count,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GiB", 24 * 2**30), ("24 gib", 24 * 2**30), ("24G", 24 * 2**30), ("1.5GB", 1_500_000_000),
        ("512MiB", 512 * 2**20), ("512M", 512 * 2**20), ("1024", 1024), ("0", 0), ("1TiB", 2**40),
    ],
)  # fmt: skip
def test_sizes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1.2.3G", "24 cows", "inf", "nan", "9" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("4096", 4096), ("47,616", 47616), ("32k", 32768), ("1.5k", 1536), ("1M", 2**20)]
)
def test_counts(text: str, expected: int) -> None:
    assert parse_count(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("1008GB/s", 1008e9), ("1 TB/s", 1e12), ("936 gb / s", 936e9)]
)
def test_bandwidths(text: str, expected: float) -> None:
    assert parse_bytes_per_s(text) == expected


@pytest.mark.parametrize("text", ["1008GB", "1008GB/m", "/s", "fast/s"])
def test_what_is_no_bandwidth(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        parse_bytes_per_s(text)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (2**30, "1.00 GiB"), (12 * 2**30, "12.0 GiB"), (867 * 2**20, "867 MiB"),
     (-3 * 2**30, "-3.00 GiB"), (1536, "1.50 KiB"), (2**41, "2.00 TiB")],
)  # fmt: skip
def test_sizes_as_people_read_them(n: int, expected: str) -> None:
    assert format_bytes(n) == expected


def test_mebibytes_and_tokens() -> None:
    assert format_mib(22 * 2**30) == "22,528"
    assert [format_count(n) for n in (32768, 12345, 512)] == ["32k", "12,345", "512"]
