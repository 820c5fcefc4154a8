"""Devices and host of /status: the plan's bytes, llama.cpp's, and the driver's readings."""

from dataclasses import asdict
from typing import Any

from vram_llm.engine.model_info import ModelInfo
from vram_llm.machine.device_readings import DeviceReading
from vram_llm.machine.types import Device
from vram_llm.planner.estimates import DeviceEstimate, HostEstimate, MemoryUse
from vram_llm.planner.types import HOST, Placement, Plan, PlannedDevice
from vram_llm.server.metrics.status_reply import (
    BufferBytes,
    PartElsewhere,
    PlannedBytes,
    StatusDevice,
    StatusHost,
    StatusPcie,
    StatusProcess,
)
from vram_llm.server.metrics.system_readings import SystemReading

_READ = (
    "utilization", "memory_utilization", "temperature_c", "power_w", "power_limit_w", "clock_mhz",
    "max_clock_mhz", "memory_clock_mhz", "fan", "ecc_errors", "display_attached",
)  # fmt: skip


def devices_of(
    plan: Plan, info: ModelInfo | None, pid: int | None, reading: SystemReading
) -> list[StatusDevice]:
    """The devices of a plan whose engine is process `pid`."""
    return [
        _planned_device(index, device, plan, info, reading.card(device), pid)
        for index, device in enumerate(plan.devices)
    ]


def idle_device(index: int, device: Device, reading: SystemReading) -> StatusDevice:
    """A device that no plan uses."""
    card = reading.card(device)
    return _device(index, device, _planned(None, 0, 0), card, other_bytes=card and card.used_bytes)


def host_of(plan: Plan, info: ModelInfo | None, reading: SystemReading) -> StatusHost:
    """The host of a plan."""
    host = reading.host
    return StatusHost(
        total_bytes=host.total_bytes,
        available_bytes=host.available_bytes,
        swap_used_bytes=host.swap_used_bytes,
        planned=planned_on_host(plan),
        measured=measured_on(HOST, info),
        own_bytes=host.process_bytes,
        layers=plan.placement.first_and_last(HOST),
        moved=_moved(plan.placement, HOST),
    )


def planned_on(device: PlannedDevice, plan: Plan) -> PlannedBytes:
    """The bytes that a plan puts on a device."""
    estimate = next((each for each in plan.estimate.devices if each.id == device.id), None)
    overhead = 0 if estimate is None else estimate.overhead_bytes
    return _planned(estimate, overhead, device.reserve_bytes)


def planned_on_host(plan: Plan) -> PlannedBytes:
    """The bytes that a plan puts into the host's memory, without weights that stay in the mapped file."""
    estimate = plan.estimate.host
    planned = _planned(estimate, 0, plan.host_reserve_bytes or 0)
    return planned.model_copy(update={"weights_bytes": planned.weights_bytes - estimate.disk_bytes})


def measured_on(device_id: str, info: ModelInfo | None) -> BufferBytes | None:
    """The bytes of llama.cpp's buffers on a device; None if there is no report."""
    if info is None or not info.memory:
        return None
    none = MemoryUse()
    return BufferBytes(**asdict(info.memory.get(device_id, none) + info.draft_memory.get(device_id, none)))


def _planned(estimate: DeviceEstimate | HostEstimate | None, overhead: int, reserve: int) -> PlannedBytes:
    return PlannedBytes(
        **asdict(MemoryUse() if estimate is None else estimate.use),
        overhead_bytes=overhead,
        reserve_bytes=reserve,
        companions_bytes=0 if estimate is None else estimate.companion_bytes,
    )


def _planned_device(
    index: int,
    device: PlannedDevice,
    plan: Plan,
    info: ModelInfo | None,
    card: DeviceReading | None,
    pid: int | None,
) -> StatusDevice:
    own = None if card is None else card.own_bytes(pid)
    used = None if card is None else card.used_bytes
    return _device(
        index,
        device,
        planned_on(device, plan),
        card,
        measured=measured_on(device.id, info),
        own_bytes=own,
        other_bytes=None if own is None or used is None else max(used - own, 0),
        layers=plan.placement.first_and_last(device.id),
        moved=_moved(plan.placement, device.id),
    )


def _device(
    index: int, device: Device, planned: PlannedBytes, card: DeviceReading | None, **of_plan: Any
) -> StatusDevice:
    """`of_plan` are the fields that a plan and its engine give; without them, no plan uses the device."""
    reasons = None if card is None else card.throttle_reasons
    read: dict[str, Any] = {name: None if card is None else getattr(card, name) for name in _READ}
    nothing: dict[str, Any] = {
        "measured": None,
        "own_bytes": None,
        "other_bytes": None,
        "layers": None,
        "moved": [],
    }
    return StatusDevice(
        index=index,
        id=device.id,
        name=device.name,
        backend=device.kind.value,
        total_bytes=(card and card.total_bytes) or device.total_bytes,
        free_bytes=None if card is None else card.free_bytes,
        planned=planned,
        throttle_reasons=None if reasons is None else list(reasons),
        pcie=None if card is None or card.pcie is None else StatusPcie(**asdict(card.pcie)),
        processes=_processes(card),
        **(nothing | of_plan | read),
    )


def _processes(card: DeviceReading | None) -> list[StatusProcess] | None:
    if card is None or card.processes is None:
        return None
    return [StatusProcess(pid=each.pid, name=each.name, bytes=each.used_bytes) for each in card.processes]


def _moved(placement: Placement, device_id: str) -> list[PartElsewhere]:
    return [
        PartElsewhere(
            part=None if override.part is None else override.part.value, layers=list(override.layers)
        )
        for override in placement.overrides
        if override.device == device_id
    ]
