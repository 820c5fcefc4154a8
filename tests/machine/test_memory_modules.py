from pathlib import Path

import pytest

from tests.machine.test_host import lay_out
from vram_llm.machine.memory_modules import memory_bandwidth, memory_kind
from vram_llm.machine.types import Source

UDEV = "run/udev/data/+dmi:id"
GB = 10**9


def table(*modules: tuple[str, str, int], size: int = 2**34, **fields: object) -> str:
    """udev's properties of modules, each with its bank, its slot and its speed in MT/s."""
    lines = ["I:1234", "E:MEMORY_ARRAY_LOCATION=System Board Or Motherboard"]
    for i, (bank, slot, speed) in enumerate(modules):
        found = {"BANK_LOCATOR": bank, "LOCATOR": slot, "SIZE": size, "DATA_WIDTH": 64, "SPEED_MTS": 9999}
        found |= {"CONFIGURED_SPEED_MTS": speed} | fields
        lines += [f"E:MEMORY_DEVICE_{i}_{field}={value}" for field, value in found.items()]
    lines.append(f"E:MEMORY_DEVICE_{len(modules)}_PRESENT=0")
    return "\n".join(lines)


DDR4 = ("BANK 0", "DIMM_A1", 3200), ("BANK 1", "DIMM_A2", 3200), ("BANK 2", "DIMM_B1", 3200)
SERVER = [(f"P{cpu} CHANNEL {name}", "DIMM 0", 4800) for cpu in (0, 1) for name in "ABCDEFGH"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (table(*DDR4), 2 * 8 * 3.2),
        (table(*DDR4[:2]), 8 * 3.2),  # two modules of one channel
        (table(("BANK 0", "DIMM 0", 2666), ("BANK 1", "DIMM 1", 2666)), 2 * 8 * 2.666),
        (table(*[(f"BANK {i}", f"DIMM {i}", 2666) for i in range(4)]), 2 * 8 * 2.666),
        (table(*SERVER), 16 * 8 * 4.8),
        (table(*[("", f"Controller{i}-ChannelA-DIMM0", 5600) for i in (0, 1)]), 2 * 8 * 5.6),
        (table(("", "DIMMA1", 3600), ("", "DIMMB1", 3000)), 2 * 8 * 3.0),  # the slowest module sets the rate
        (table(*[("", f"Channel{name}", 6400) for name in "ABCD"], DATA_WIDTH=32), 4 * 4 * 6.4),
    ],
)  # fmt: skip
def test_the_bandwidth_is_channels_times_rate(tmp_path: Path, text: str, expected: float) -> None:
    found = memory_bandwidth(lay_out(tmp_path, {UDEV: text}))
    assert found is not None
    assert found.value == pytest.approx(expected * GB)
    assert found.source is Source.ESTIMATED


@pytest.mark.parametrize(
    "text",
    [
        "",
        table(),
        table(("", "DIMM 0", 0), SPEED_MTS="unknown"),  # a virtual machine's
        table(("", "DIMM 0", 65535)),
        table(*DDR4, size=0),
    ],
)
def test_a_list_without_rates_gives_no_bandwidth(tmp_path: Path, text: str) -> None:
    assert memory_bandwidth(lay_out(tmp_path, {UDEV: text})) is None


def test_without_a_list_the_bandwidth_is_unknown(tmp_path: Path) -> None:
    assert memory_bandwidth(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (table(*DDR4, TYPE="DDR4"), "DDR4-3200 2ch"),
        (table(*SERVER, TYPE="DDR5"), "DDR5-4800 16ch"),
        (table(("", "DIMMA1", 3600), ("", "DIMMB1", 3000), TYPE="DDR4"), "DDR4-3000 2ch"),
        (table(*DDR4, TYPE="RAM"), None),  # a virtual machine's
        (table(*DDR4), None),
        (table(("", "DIMM 0", 0), SPEED_MTS="unknown", TYPE="DDR4"), None),
        ("", None),
    ],
)
def test_the_kind_of_memory(tmp_path: Path, text: str, expected: str | None) -> None:
    assert memory_kind(lay_out(tmp_path, {UDEV: text})) == expected
