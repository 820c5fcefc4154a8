import pytest

from vram_llm.machine.detect import what_if
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.speed_notes import speed_notes


@pytest.mark.parametrize(
    ("rig", "note"),
    [
        (
            "RX 7900 XTX",
            "the speed of AMD Radeon RX 7900 XTX (GPU0) is Vulkan's, as no back end is named; for ROCm's, "
            'write "AMD Radeon RX 7900 XTX@ROCm"',
        ),
        ("RX 7900 XTX@ROCm", None),
        ("RX 7900 XTX@Vulkan", None),
        ("Instinct MI100", None),
        ("RTX 4090", None),
        (
            "24GB",
            "the speed of 24.0 GiB GPU (GPU0) is assumed (101 GB/s); name the card or its bandwidth in "
            '--gpu, as in "24GiB@1008GB/s"',
        ),
    ],
)
def test_notes_on_described_cards(rig: str, note: str | None) -> None:
    machine = what_if([rig])
    notes = speed_notes(machine, placement_from_counts(["GPU0"], [32], 32))
    assert notes == (() if note is None else (note,))
    if note is not None and "@ROCm" in note:
        named = note.rpartition("write ")[2].strip('"')
        assert speed_notes(what_if([named]), placement_from_counts(["GPU0"], [32], 32)) == ()
