"""Devices by the names that a user writes."""

from dataclasses import replace

import pytest

from vram_llm.errors import UnknownDevice
from vram_llm.machine.detect import what_if
from vram_llm.machine.device_choice import devices_called, with_devices
from vram_llm.machine.types import Machine


@pytest.fixture
def machine() -> Machine:
    """GPU0 and GPU2 are alike; llama.cpp, which has the fastest card first, numbers them otherwise."""
    rig = what_if(["RTX 3090 + RTX 4090 + RTX 3090"])
    names = ("CUDA1", "CUDA0", "CUDA2")
    devices = (replace(device, ggml_name=name) for device, name in zip(rig.devices, names, strict=True))
    return replace(rig, devices=tuple(devices))


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        ("GPU1", ["GPU1"]), ("gpu1", ["GPU1"]), ("1", ["GPU1"]), ("CUDA0", ["GPU1"]), ("cuda2", ["GPU2"]),
        ("rtx 4090", ["GPU1"]), ("rtx 3090", ["GPU0", "GPU2"]), ("3", []), ("CUDA3", []), ("GPU", []),
    ],
)  # fmt: skip
def test_names_of_devices(machine: Machine, written: str, ids: list[str]) -> None:
    assert [device.id for device in devices_called(written, machine.devices)] == ids


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [(("CUDA2", "GPU1"), ["GPU2", "GPU1"]), ((), []), (("RTX 3090", "GPU0"), ["GPU0", "GPU2"])],
)
def test_a_machine_has_only_the_devices_asked_for_in_their_order(
    machine: Machine, wanted: tuple[str, ...], ids: list[str]
) -> None:
    assert [device.id for device in with_devices(machine, wanted).devices] == ids


def test_a_device_that_is_not_there_is_refused_with_those_that_are(machine: Machine) -> None:
    with pytest.raises(
        UnknownDevice, match=r"no device 'CUDA7'; there are GPU0 \(NVIDIA GeForce RTX 3090, CUDA1\), GPU1"
    ):
        with_devices(machine, ["GPU0", "CUDA7"])
    with pytest.raises(UnknownDevice, match="this machine has none"):
        with_devices(replace(machine, devices=()), ["GPU0"])
