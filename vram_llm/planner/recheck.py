"""Whether a saved plan still fits the machine."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.machine.types import Device, Machine, Source
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.companions import companion_only_devices
from vram_llm.planner.types import HOST, Companion, Plan, PlannedDevice
from vram_llm.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFit:
    """Bytes that the plan needs on one device or on the host, and the bytes free there now."""

    id: str  # in the plan
    name: str
    needed_bytes: int  # on the host also those of devices that share its memory
    free_bytes: int
    reserve_bytes: int
    budget_bytes: int  # free less the reserve

    @property
    def over_bytes(self) -> int:
        """Bytes over the budget; negative if there is room."""
        return self.needed_bytes - self.budget_bytes


def check_model(plan: Plan, profile: ModelProfile) -> None:
    """Raises BadPlan if `profile` is not of the model that was planned."""
    then, path = plan.model, plan.model.path
    if (then.architecture, then.n_layers) != (profile.architecture, profile.n_layers):
        raise BadPlan(
            f"{path} is another model now: {profile.n_layers} layers of {profile.architecture}, "
            f"the plan is for {then.n_layers} of {then.architecture}; plan again"
        )
    if then.total_bytes != profile.total_bytes:
        raise BadPlan(
            f"{path} has changed since the plan was made: {profile.total_bytes:,} bytes of tensors, "
            f"the plan is for {then.total_bytes:,}; plan again"
        )


def check_companion(companion: Companion, total_bytes: int) -> None:
    """Raises BadPlan if the companion's file has changed since the plan was made."""
    if companion.total_bytes != total_bytes:
        raise BadPlan(
            f"{companion.path} has changed since the plan was made: {total_bytes:,} bytes of tensors, "
            f"the plan is for {companion.total_bytes:,}; plan again"
        )


def check(plan: Plan, machine: Machine, host_reserve_bytes: int) -> tuple[DeviceFit, ...]:
    """The devices that the plan uses, in its order, then the host; all have enough room.

    The reserve is the plan's; for a plan without devices it is `host_reserve_bytes`. Raises BadPlan if a
    device is not in `machine`, DoesNotFit with each device that is short.
    """
    fits = device_fits(plan, machine, host_reserve_bytes)
    if short := [fit for fit in fits if fit.over_bytes > 0]:
        short_bytes = sum(fit.over_bytes for fit in short)
        raise DoesNotFit(
            f"the plan for {plan.model.name} no longer fits: {_sentence(short)}", short_bytes=short_bytes
        )
    return fits


def device_fits(plan: Plan, machine: Machine, host_reserve_bytes: int) -> tuple[DeviceFit, ...]:
    """Like `check`, but devices may be short. Raises BadPlan."""
    present = find_devices(plan, machine.devices)
    planned = {device.id: device for device in plan.devices}
    uses = (*plan.estimate.devices, *companion_only_devices(plan))
    on_devices = (
        DeviceFit(
            id=use.id,
            name=planned[use.id].name,
            needed_bytes=use.total_bytes,
            free_bytes=present[use.id].free_bytes,
            reserve_bytes=planned[use.id].reserve_bytes,
            budget_bytes=present[use.id].budget_bytes(planned[use.id].reserve_bytes),
        )
        for use in uses
    )
    in_pool = (
        max(use.total_bytes - present[use.id].set_aside_bytes, 0)
        for use in uses
        if present[use.id].shares_host_memory
    )
    reserve_bytes = plan.devices[0].reserve_bytes if plan.devices else host_reserve_bytes
    host = DeviceFit(
        id=HOST,
        name=machine.host.name,
        needed_bytes=plan.estimate.host.total_bytes + sum(in_pool),
        free_bytes=machine.host.available_bytes,
        reserve_bytes=reserve_bytes,
        budget_bytes=machine.host.budget_bytes(reserve_bytes),
    )
    return (*on_devices, host)


def find_devices(plan: Plan, devices: Iterable[Device]) -> dict[str, Device]:
    """For each id that the plan uses, the matching device among `devices`.

    Cards match by UUID and PCI bus id, workers' devices by address and index, what-if cards by name in order.
    Raises BadPlan for a device that is missing.
    """
    planned = {device.id: device for device in plan.devices}
    left = list(devices)
    matches: dict[str, Device] = {}
    # the plan lists devices in the machine's order, so equal what-if cards match in that order
    for device_id in (id for id in planned if id in plan.used):
        device = planned[device_id]
        match = next((other for other in left if _is_same(device, other)), None)
        if match is None:
            raise BadPlan(f"{_described(device)} is not here{_moved(device, left)}; plan again")
        left.remove(match)
        matches[device_id] = match
    if unknown := [id for id in plan.placement.device_order if id not in matches]:
        raise BadPlan(f"the plan places layers on {unknown[0]}, which is not one of its devices; plan again")
    return matches


def worker_limits(plan: Plan) -> dict[str, int | None]:
    """The workers that the plan uses, with the bytes of a device that the user allowed; None: all."""
    limits: dict[str, int | None] = {}
    for device in plan.devices:
        if device.endpoint is not None and device.id in plan.used:
            given = device.free_bytes if device.memory_source is Source.GIVEN else None
            limits[device.endpoint] = max(given or 0, limits.get(device.endpoint) or 0) or None
    return limits


def _is_same(planned: PlannedDevice, other: Device) -> bool:
    if planned.endpoint is not None:
        return (planned.endpoint, planned.endpoint_index) == (other.endpoint, other.endpoint_index)
    if other.endpoint is not None:
        return False
    if planned.what_if:
        is_any = planned.name == f"{format_bytes(planned.total_bytes)} GPU"  # described only by its size
        return planned.kind is other.kind and (is_any or _plain(planned.name) == _plain(other.name))
    if planned.uuid is None and planned.pci_bus_id is None:  # a device that only llama.cpp's backend lists
        same = (planned.kind, planned.ggml_name, planned.name) == (other.kind, other.ggml_name, other.name)
        return same and planned.ggml_name is not None
    if planned.uuid is None:
        return planned.pci_bus_id is not None and planned.pci_bus_id == other.pci_bus_id
    return (planned.uuid, planned.pci_bus_id) == (other.uuid, other.pci_bus_id)


def _plain(name: str) -> str:
    """A card's name in the driver; the catalog appends the size to names with several sizes."""
    return re.sub(r" \d+ ?gb$", "", name.casefold())


def _moved(device: PlannedDevice, others: list[Device]) -> str:
    """The end of a message about a card that is in another slot now, or ""."""
    now = next((other for other in others if device.uuid is not None and other.uuid == device.uuid), None)
    return f" any more, it is at {now.pci_bus_id} now" if now is not None else ""


def _described(device: PlannedDevice) -> str:
    if device.endpoint is not None:
        return f"device {device.endpoint_index} of worker {device.endpoint}"
    where = ", ".join(part for part in (device.id, device.uuid, device.pci_bus_id) if part)
    return f"{device.name} ({where})"


def _sentence(short: list[DeviceFit]) -> str:
    sentences = []
    for fit in short:
        name = "the computer's memory" if fit.id == HOST else f"{fit.name} ({fit.id})"
        sentences.append(
            f"{name} is {format_bytes(fit.over_bytes)} short: {format_bytes(fit.needed_bytes)} planned, "
            f"{format_bytes(fit.free_bytes)} free, of which {format_bytes(fit.reserve_bytes)} in reserve"
        )
    return "; ".join(sentences) + ": close other programs that use it, or plan again"
