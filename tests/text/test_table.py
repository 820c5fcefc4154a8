import pytest

from vram_llm.text.lines import bar, line, plain, text_of, wrap
from vram_llm.text.names import short_name
from vram_llm.text.plain import ascii_text
from vram_llm.text.table import Column, table

COLUMNS = (Column(title="device", least=4), Column(title="n", right=True), Column())
ROWS = [("long name", "5", "a"), ("b", "12", "ccc"), ("d", line("over the rest"))]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (30, ["device      n", "long name   5  a", "b          12  ccc", "d          over the rest"]),
        (19, ["dev…   n", "lon…   5  a", "b     12  ccc", "d     over the rest"]),
        (18, None),  # the last row has no room
    ],
)
def test_columns_are_shortened_before_a_table_is_given_up(width: int, expected: list[str] | None) -> None:
    lines = table(COLUMNS, ROWS, width)
    assert (None if lines is None else plain(lines).splitlines()) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, "····"), (0.001, "▇···"), (0.5, "▇▇··"), (0.999, "▇▇▇·"), (1, "▇▇▇▇"), (3, "▇▇▇▇")],
)
def test_bars(share: float, expected: str) -> None:
    assert text_of(bar(share, 4)) == expected


def test_figures_keep_their_units_and_flags_are_whole() -> None:
    lines = wrap("it takes 12.5 GiB with --kv-type q8_0", 20, indent="  ")
    assert [text_of(each) for each in lines] == ["it takes 12.5 GiB", "  with --kv-type", "  q8_0"]
    assert text_of(wrap("a\x1b[31mb", 20)[0]) == "a?[31mb"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce RTX 4080 Laptop GPU", "RTX 4080 Laptop"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("AMD Radeon Pro W7900", "Radeon Pro W7900"),
        ("Apple M3 Max", "Apple M3 Max"),
        ("24.0 GiB GPU", "24.0 GiB GPU"),
        ("worker 10.0.0.2:50052", "10.0.0.2:50052"),
    ],
)
def test_names_of_cards(name: str, expected: str) -> None:
    assert short_name(name) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("▇▇·", "##."), ("2×", "2x"), ("café…", "cafe..."), ("中", "?"), ("plain", "plain")],
)
def test_ascii(text: str, expected: str) -> None:
    assert ascii_text(text) == expected
