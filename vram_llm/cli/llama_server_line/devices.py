"""llama.cpp's names and order of a machine's devices."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from vram_llm.machine.types import Device, DeviceKind
from vram_llm.planner.export.device_flags import PREFIXES
from vram_llm.planner.types import HOST

_HOST_NAMES = ("CPU", "CUDA_Host", "ROCm_Host", "Vulkan_Host", "SYCL_Host", "none")


@dataclass(frozen=True, slots=True)
class LlamaDevices:
    """The ids of devices in llama.cpp's order, and by its names.

    RPC devices come first, then cards in the order of their back ends, integrated ones only without others
    (llama_prepare_model_devices in src/llama.cpp). `ids` is empty where no device is here.
    """

    ids: tuple[str, ...]
    by_name: dict[str, str]  # in lower case; buffer types too
    free_bytes: dict[str, int] = field(default_factory=dict)  # by id

    @classmethod
    def of(cls, devices: Sequence[Device]) -> "LlamaDevices":
        """The names of a machine's devices. Cards that are not here are numbered in their order."""
        remote = [device for device in devices if device.kind is DeviceKind.RPC]
        local = [device for device in devices if device.kind is not DeviceKind.RPC]
        named = {f"rpc{number}": device.id for number, device in enumerate(remote)}
        for device in remote:
            named[f"rpc{device.endpoint_index}[{device.endpoint}]".lower()] = device.id
            if device.endpoint_index == 0:  # llama.cpp's name before 2025-10
                named[f"rpc[{device.endpoint}]".lower()] = device.id
        numbers: dict[DeviceKind, int] = {}
        for device in local:
            number = numbers.setdefault(device.kind, 0)
            numbers[device.kind] += 1
            named[(device.ggml_name or f"{PREFIXES[device.kind]}{number}").lower()] = device.id
        cards = [device for device in local if not device.shares_host_memory] or local
        ordered = (*remote, *sorted(cards, key=_number))
        free_bytes = {device.id: device.free_bytes for device in ordered}
        return cls(tuple(device.id for device in ordered), named, free_bytes)

    def id_of(self, name: str) -> str:
        """The id of a device or of its buffer type; "host" for the computer's own buffer types.

        Without any device here the name itself. Raises UsageError for an unknown name.
        """
        if name.lower() in map(str.lower, _HOST_NAMES):
            return HOST
        if not self.by_name:
            return name
        found = self.by_name.get(name.lower())
        if found is None:
            known = ", ".join(f"{llama} ({own})" for llama, own in self.by_name.items())
            raise click.UsageError(f"there is no device {name}; llama.cpp's names of the devices are {known}")
        return found


def _number(device: Device) -> int:
    """The number in llama.cpp's name of a device; 0 for a card that is not here."""
    found = re.search(r"\d+$", device.ggml_name or "")
    return int(found[0]) if found else 0
