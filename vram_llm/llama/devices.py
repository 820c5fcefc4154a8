"""ggml's handles for the devices of a plan."""

from collections.abc import Iterable

from vram_llm.errors import BadPlan
from vram_llm.llama import bindings as b
from vram_llm.llama import rpc
from vram_llm.machine.backend_devices import KINDS
from vram_llm.machine.build_command import build_command
from vram_llm.machine.types import Device

Servers = dict[str, list[int]]
"""The handles of each RPC worker that this process is connected to, by its endpoint."""


def handles(devices: Iterable[Device], order: Iterable[str], servers: Servers | None = None) -> list[int]:
    """ggml's handle for each id of `order`, connecting to RPC workers that are not in `servers`.

    Those are added to it: a worker does not answer a second connection of the same process. Raises
    BadPlan, WorkerUnreachable.
    """
    by_id = {device.id: device for device in devices}
    servers = {} if servers is None else servers
    found = []
    for device_id in order:
        if device_id not in by_id:
            raise BadPlan(
                f"the plan places layers on {device_id}, which is not one of its devices; plan again"
            )
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
        if _is_meant(handle, device):
            return handle
    where = f"PCI {device.pci_bus_id}" if device.pci_bus_id else device.ggml_name
    raise BadPlan(
        f"the installed llama.cpp does not list {device.name} ({where}) as a {device.kind} device. "
        f"Where it is not built for it, this builds one that is: {build_command(device.kind)}"
    )


def _is_meant(handle: int, device: Device) -> bool:
    """Two back ends may drive one card, so its kind counts too."""
    if KINDS.get(b.registry_of(handle)) is not device.kind:
        return False
    props = b.props_of(handle)
    if device.pci_bus_id is not None:
        return bool(props.device_id) and props.device_id.decode().lower() == device.pci_bus_id
    names = (props.name.decode(), props.description.decode("utf-8", "replace"))
    return names == (device.ggml_name, device.name)
