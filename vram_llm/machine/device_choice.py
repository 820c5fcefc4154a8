"""Devices by the names that a user writes."""

from collections.abc import Sequence
from dataclasses import replace

from vram_llm.errors import UnknownDevice
from vram_llm.machine.types import Device, Machine

NO_DEVICES = "none"


def devices_called(written: str, devices: Sequence[Device]) -> tuple[Device, ...]:
    """The devices with this id ("GPU0"), number, llama.cpp's name ("CUDA0"), or a part of its name.

    A number counts the devices in their order, from 0. Empty if there is none.
    """
    if written.isdecimal():
        return tuple(devices[int(written) :][:1])
    lower = written.lower()
    for exact in ([device.id for device in devices], [device.ggml_name or "" for device in devices]):
        if lower in (names := [name.lower() for name in exact]):
            return (devices[names.index(lower)],)
    return tuple(device for device in devices if lower in device.name.lower())


def known_devices(devices: Sequence[Device]) -> str:
    """The devices that there are, for a message: "there are GPU0 (RTX 4090, CUDA0)"."""
    if not devices:
        return "this machine has none"
    names = (
        f"{device.id} ({device.name}{'' if _is_alike(device) else f', {device.ggml_name}'})"
        for device in devices
    )
    return f"there {'is' if len(devices) == 1 else 'are'} {', '.join(names)}"


def _is_alike(device: Device) -> bool:
    return device.ggml_name is None or device.ggml_name == device.id


def with_devices(machine: Machine, wanted: Sequence[str]) -> Machine:
    """`machine` with only these devices, in this order; without devices if `wanted` is empty.

    Raises UnknownDevice for a name that is none of its devices.
    """
    chosen: dict[str, Device] = {}
    for written in wanted:
        found = devices_called(written, machine.devices)
        if not found:
            raise UnknownDevice(f"there is no device {written!r}; {known_devices(machine.devices)}")
        chosen |= {device.id: device for device in found}
    return replace(machine, devices=tuple(chosen.values()))
