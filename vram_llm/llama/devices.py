"""A device of a plan to ggml's handle for it, where it is in reach of this process."""

from collections.abc import Iterable

from vram_llm.errors import BadPlan
from vram_llm.llama import bindings as b
from vram_llm.llama import rpc
from vram_llm.machine.types import Device

Servers = dict[str, list[int]]
"""The handles of each RPC worker that this process is connected to, by its endpoint."""


def handles(devices: Iterable[Device], order: Iterable[str], servers: Servers | None = None) -> list[int]:
    """ggml's handle for each id of `order`, connecting to RPC workers that are not in `servers`.

    Those are added to it: a worker that is busy with this process would not answer a second look. Raises
    BadPlan, WorkerUnreachable.
    """
    by_id = {device.id: device for device in devices}
    servers = {} if servers is None else servers
    found = []
    for device_id in order:
        if device_id not in by_id:
            raise BadPlan(f"the plan places layers on {device_id}, which is none of its devices; plan again")
        found.append(_handle(by_id[device_id], servers))
    return found


def _handle(device: Device, servers: Servers) -> int:
    if device.what_if:
        raise BadPlan(
            f"{device.name} is planned for but not in this machine; plan again without --gpu to serve here"
        )
    if device.endpoint is not None:
        if device.endpoint not in servers:
            servers[device.endpoint] = rpc.connect(device.endpoint)
        found = servers[device.endpoint]
        if device.endpoint_index >= len(found):
            raise BadPlan(
                f"worker {device.endpoint} has {len(found)} devices and the plan wants its number "
                f"{device.endpoint_index}, counted from 0; plan again"
            )
        return found[device.endpoint_index]
    for handle in b.local_devices():
        identity = b.props_of(handle).device_id
        if identity and identity.decode().lower() == device.pci_bus_id:
            return handle
    raise BadPlan(
        f"llama.cpp does not see {device.name} (PCI {device.pci_bus_id}); "
        "is it built for this card's back end? `make setup` says what it found"
    )
