"""Warnings about cards: a table of states and the warnings that they give."""

from dataclasses import replace

import pytest

from tests.machine.fake_nvml import FakeCard, fake_nvml
from vram_llm.machine import catalog
from vram_llm.machine.device_readings import DeviceReader
from vram_llm.machine.device_state import DeviceState, LinkState, ProcessState, state_of
from vram_llm.machine.device_warnings import device_warnings
from vram_llm.units import GIB, MIB

WELL = DeviceState(
    index=1,
    id="GPU1",
    name="NVIDIA GeForce RTX 3090",
    total_bytes=24 * GIB,
    free_bytes=4 * GIB,
    own_bytes=20 * GIB,
    other_bytes=0,
    utilization=0.98,
    temperature_c=70,
    throttle_reasons=(),
    pcie=LinkState(generation=4, width=16, max_generation=4, max_width=16),
    ecc_errors=0,
    display_attached=False,
    processes=(ProcessState(pid=7, name="vram-llm", bytes=20 * GIB),),
)


def link(generation: int, width: int, max_generation: int, max_width: int) -> LinkState:
    return LinkState(generation=generation, width=width, max_generation=max_generation, max_width=max_width)


def other(*processes: ProcessState) -> dict[str, object]:
    held = sum(each.bytes or 0 for each in processes)
    return {"other_bytes": held, "processes": (*(WELL.processes or ()), *processes)}


TRAINER = ProcessState(pid=42, name="python", bytes=3 * GIB)
GAME = ProcessState(pid=43, name="game", bytes=4 * GIB)


@pytest.mark.parametrize(
    ("changes", "kinds", "words"),
    [
        ({}, [], ""),
        ({"throttle_reasons": ("power limit",)}, [], ""),  # what a power limit is for
        ({"throttle_reasons": None, "ecc_errors": None, "display_attached": None, "pcie": None}, [], ""),
        (
            {"throttle_reasons": ("power limit", "hardware slowdown", "hardware thermal limit")},
            ["throttling"],
            "because of heat (hardware thermal limit at 70 °C)",
        ),
        ({"throttle_reasons": ("power brake",)}, ["throttling"], "check its power cables"),
        ({"pcie": link(3, 4, 3, 4)}, ["narrow_slot"], "in an x4 slot and has 16 lanes"),
        ({"pcie": link(3, 1, 3, 1)}, ["narrow_slot"], "in an x1 slot"),
        ({"pcie": link(3, 8, 3, 8)}, [], ""),
        ({"pcie": link(3, 4, 3, 4), "name": "A card"}, ["narrow_slot"], "in an x4 slot, so"),
        ({"pcie": link(4, 8, 4, 16)}, ["weak_link"], "a link of x8, and could have x16"),
        ({"pcie": link(1, 16, 4, 16)}, ["weak_link"], "a link of PCIe 1, and could have PCIe 4"),
        ({"pcie": link(1, 8, 4, 16), "utilization": 0.0}, [], ""),  # it saves power
        ({"ecc_errors": 1}, ["ecc_errors"], "an uncorrected error in its memory"),
        ({"ecc_errors": 12}, ["ecc_errors"], "12 uncorrected errors"),
        ({"display_attached": True}, ["display"], "A display is connected to GPU1 (RTX 3090)"),
        (other(TRAINER), ["other_programs"], "python (pid 42) holds 3.00 GiB of GPU1 (RTX 3090): end it"),
        (other(TRAINER, GAME), ["other_programs"], "game (pid 43) and 1 more hold 7.00 GiB"),
        (other(ProcessState(pid=9, name="Xorg", bytes=100 * MIB)), [], ""),
        ({"other_bytes": GIB}, ["other_programs"], "Programs that the driver does not name hold 1.00 GiB"),
        ({"other_bytes": None}, [], ""),
    ],
)
def test_a_state_and_its_warnings(changes: dict[str, object], kinds: list[str], words: str) -> None:
    found = device_warnings(replace(WELL, **changes))  # type: ignore[arg-type]  # fields by name
    assert [warning.kind for warning in found] == kinds
    assert all(words in warning.text for warning in found)
    for warning in found:
        assert (warning.device, warning.stops_serving) == ("GPU1", False)
        assert warning.text.endswith(".")
        assert ": " in warning.text  # a fault: what to do


def test_a_card_with_four_lanes_is_in_no_narrow_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    of_four = replace(catalog.find_card(WELL.name), pcie_lanes=4)
    monkeypatch.setattr(catalog, "find_card", lambda *_: of_four)
    assert device_warnings(replace(WELL, pcie=link(4, 4, 4, 4))) == ()


def test_the_state_of_a_card_of_this_computer() -> None:
    card = FakeCard(free_mib=20000, processes={2**22 + 7: 3000}, throttled=0x40, slot=(3, 4), link=(3, 4))
    (reading,) = DeviceReader(lambda: fake_nvml(card)).read()
    state = state_of(reading)
    assert (state.id, state.backend, state.own_bytes) == ("GPU0", "cuda", None)
    assert state.used_bytes == (24576 - 20000) * MIB
    assert state.pcie is not None
    assert (state.pcie.generation, state.pcie.max_width) == (3, 4)
    assert state.processes == (ProcessState(pid=2**22 + 7, name=None, bytes=3000 * MIB),)
    assert [each.kind for each in device_warnings(state)] == ["throttling", "narrow_slot", "other_programs"]
