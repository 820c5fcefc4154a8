"""Companions: files that share the devices with a model, and the device of each.

An adapter's tensors are on the devices of the tensors they change. A projector is on one device (clip_ctx in
tools/mtmd/clip.cpp). A draft model is on one device too, since a small model gains nothing from a split; the
best device is one that the model leaves idle. Else both go to the device with the most free memory. The model
is then planned for the remaining memory.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TypeVar

from vram_llm.errors import BadPlan
from vram_llm.machine.assumed_speed import device_speed
from vram_llm.machine.types import Device, Machine
from vram_llm.model.adapter import Adapter
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.estimates import DeviceEstimate, Estimate, HostEstimate, MemoryUse
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.memory.host_pool import divide_host_memory
from vram_llm.planner.memory.lora import AdapterWeights
from vram_llm.planner.overhead import overhead_bytes
from vram_llm.planner.override_text import CPU
from vram_llm.planner.types import (
    HOST,
    Companion,
    CompanionKind,
    Context,
    Lora,
    Meter,
    Placement,
    Plan,
    Workload,
)
from vram_llm.units import format_bytes

_Estimate = TypeVar("_Estimate", DeviceEstimate, HostEstimate)


@dataclass(frozen=True, slots=True)
class CompanionMemory:
    """The memory of a companion on its device and on the host. `method` names the meter."""

    method: str
    device: MemoryUse
    host: MemoryUse


@dataclass(frozen=True, slots=True, kw_only=True)
class UnplacedCompanion:
    """A projector or a draft model without a device."""

    kind: CompanionKind
    path: str
    name: str
    total_bytes: int
    measure: Callable[[Device | None], CompanionMemory]  # on a device; None: on the host only
    context: Context | None = None
    n_layers: int | None = None  # of a draft model
    wished_device: str | None = None  # a device id, or "host"; None: the planner chooses


def place_companions(
    machine: Machine,
    candidates: Sequence[UnplacedCompanion],
    reserve_bytes: int,
    allowed: Collection[str] | None = None,
    idle: Collection[str] = (),
) -> tuple[tuple[Companion, ...], Machine]:
    """The companions with their devices, and the machine with their memory counted; the largest is first.

    A draft model goes to the fastest device with enough room among the `idle` ones, which the model does not
    use. Else each companion goes to the device with the most room among those `allowed`, or to the host if it
    does not fit there. A wish goes before all this. Raises BadPlan for a wish that cannot be.
    """
    settled = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate.total_bytes):
        device, measured = _place(candidate, machine, reserve_bytes, allowed, idle)
        uses = {HOST: measured.host} | ({} if device is None else {device.id: measured.device})
        companion = Companion(
            kind=candidate.kind,
            path=candidate.path,
            name=candidate.name,
            total_bytes=candidate.total_bytes,
            device=HOST if device is None else device.id,
            uses=uses,
            method=measured.method,
            context=candidate.context,
            n_layers=candidate.n_layers,
        )
        settled.append(companion)
        machine = _with_companion(machine, companion)
    return tuple(settled), machine


def _place(
    candidate: UnplacedCompanion,
    machine: Machine,
    reserve_bytes: int,
    allowed: Collection[str] | None,
    idle: Collection[str],
) -> tuple[Device | None, CompanionMemory]:
    """The device of a companion, None for the host, and its memory there. Raises BadPlan."""
    if candidate.wished_device is not None:
        wished = _wished(candidate, machine, reserve_bytes)
        return wished, candidate.measure(wished)
    tried: list[Device] = []
    if candidate.kind is CompanionKind.DRAFT:
        # estimates list no devices with only companions: the pool would not count them
        free = (device for device in machine.devices if device.id in idle and not device.shares_host_memory)
        tried += sorted(free, key=lambda device: (-_reads_per_s(device), -_room(device, reserve_bytes)))
    if (roomiest := _roomiest(machine, reserve_bytes, allowed)) is not None:
        tried.append(roomiest)
    for device in tried:
        measured = candidate.measure(device)
        if measured.device.total_bytes <= _room(device, reserve_bytes):
            return device, measured
    return None, candidate.measure(None)


def _wished(candidate: UnplacedCompanion, machine: Machine, reserve_bytes: int) -> Device | None:
    """The device that the user wishes, None for the host. Raises BadPlan."""
    devices = {device.id.casefold(): device for device in machine.devices}
    wished = str(candidate.wished_device)
    if wished.casefold() in (HOST, CPU.casefold()):
        return None
    if (device := devices.get(wished.casefold())) is None:
        known = ", ".join((*(device.id for device in machine.devices), HOST))
        raise BadPlan(f"{candidate.name} is to be on {wished}, and the devices are {known}")
    missing = candidate.measure(device).device.total_bytes - _room(device, reserve_bytes)
    if missing > 0:
        raise BadPlan(f"{candidate.name} is to be on {device.id}, which is {format_bytes(missing)} short")
    return device


def added_weights(
    profile: ModelProfile, machine: Machine, workload: Workload, placement: Placement
) -> tuple[Companion, ...]:
    """The model's adapters and control vectors, with the memory of each on each device of a placement."""
    return (
        *adapters(profile, machine, workload.loras, placement),
        *control_vectors(profile, machine, workload, placement),
    )


def adapters(
    profile: ModelProfile, machine: Machine, loras: Sequence[Lora], placement: Placement
) -> tuple[Companion, ...]:
    """The model's adapters, with the memory of each on each device of a placement."""
    return tuple(
        Companion(
            kind=CompanionKind.LORA,
            path=lora.path,
            name=adapter.name,
            total_bytes=adapter.total_bytes,
            device=None,
            uses={
                name: MemoryUse(weights_bytes=n_bytes)
                for name, n_bytes in _adapter_bytes([adapter], machine, placement).items()
            },
            method="exact",
            scale=lora.scale,
        )
        for lora, adapter in zip(loras, profile.adapters, strict=True)
    )


def control_vectors(
    profile: ModelProfile, machine: Machine, workload: Workload, placement: Placement
) -> tuple[Companion, ...]:
    """The model's control vectors. llama.cpp keeps their sum, whose memory is the first one's."""
    if profile.control_vector is None:
        return ()
    n_bytes = _adapter_bytes([profile.control_vector], machine, placement)
    uses = {name: MemoryUse(weights_bytes=own) for name, own in n_bytes.items()}
    none = dict.fromkeys(uses, MemoryUse())
    return tuple(
        Companion(
            kind=CompanionKind.CONTROL_VECTOR,
            path=vector.path,
            name=PurePath(vector.path).name,
            total_bytes=n_file_bytes,
            device=None,
            uses=uses if number == 0 else none,
            method="exact",
            scale=vector.scale,
            layer_range=workload.control_vector_layers,
        )
        for number, (vector, n_file_bytes) in enumerate(
            zip(workload.control_vectors, profile.control_vector_bytes, strict=True)
        )
    )


def draft_plan(plan: Plan) -> Plan | None:
    """The plan that loads the draft model of `plan`; None if it has no draft model. Raises BadPlan."""
    draft = next((companion for companion in plan.companions if companion.kind is CompanionKind.DRAFT), None)
    if draft is None:
        return None
    if draft.device is None or draft.context is None or draft.n_layers is None:
        raise BadPlan("the saved plan lacks the device, context or layers of its draft model; plan again")
    ids = [] if draft.device == HOST else [draft.device]
    return replace(
        plan,
        model=replace(plan.model, path=draft.path, name=draft.name, total_bytes=draft.total_bytes),
        context=draft.context,
        placement=placement_from_counts(ids, [draft.n_layers] * len(ids), draft.n_layers),
        companions=(),
        disk_reads=None,
    )


def counting(meter: Meter, profile: ModelProfile, machine: Machine) -> Meter:
    """`meter`, which measures only the model, with all companions counted as well.

    The host's memory is divided among the host and devices that share it.
    """
    companion_bytes = {device.id: device.companion_bytes for device in machine.devices}
    companion_bytes[HOST] = machine.host.companion_bytes
    is_pool = any(device.shares_host_memory for device in machine.devices)
    if not any(companion_bytes.values()) and not profile.added_weights and not is_pool:
        return meter

    def measure(placement: Placement) -> Estimate:
        estimate = meter(placement)
        with_model = _adapter_bytes(profile.added_weights, machine, placement)
        more = {name: companion_bytes[name] + n_bytes for name, n_bytes in with_model.items()}
        whole = replace(
            estimate,
            devices=tuple(_with_companions(use, more[use.id]) for use in estimate.devices),
            host=_with_companions(estimate.host, more[HOST]),
        )
        return divide_host_memory(whole, machine.devices)

    return measure


def _adapter_bytes(adapters: Sequence[Adapter], machine: Machine, placement: Placement) -> dict[str, int]:
    """Bytes of adapters on each device of a placement, and on the host."""
    weights, devices = AdapterWeights(adapters), {device.id: device for device in machine.devices}
    n_bytes, first = {}, placement.cpu_layers
    for name, count in zip(placement.device_order, placement.layers_per_device, strict=True):
        n_bytes[name] = weights.device_bytes(
            devices[name].alignment_bytes,
            devices[name].row_padding,
            first,
            first + count,
            has_output=placement.output_device == name,
        )
        first += count
    n_bytes[HOST] = weights.host_bytes(
        machine.host.alignment_bytes, placement.cpu_layers, has_output=placement.output_device == HOST
    )
    return n_bytes


def companion_only_devices(plan: Plan) -> tuple[DeviceEstimate, ...]:
    """Estimates for the devices that hold only companions, in the plan's order."""
    estimates, devices = [], {device.id: device for device in plan.devices}
    for device in (devices[id] for id in plan.used if id not in plan.placement.device_order):
        uses = [companion.uses[device.id] for companion in plan.companions if device.id in companion.uses]
        estimates.append(
            DeviceEstimate.of(
                device.id,
                MemoryUse(),
                overhead_bytes=overhead_bytes(device),
                budget_bytes=device.budget_bytes(device.reserve_bytes),
                companion_bytes=sum(use.total_bytes for use in uses),
            )
        )
    return tuple(estimates)


def _reads_per_s(device: Device) -> float:
    return device_speed(device).read_bytes_per_s.value


def _room(device: Device, reserve_bytes: int) -> int:
    return device.budget_bytes(reserve_bytes) - overhead_bytes(device) - device.companion_bytes


def _roomiest(machine: Machine, reserve_bytes: int, allowed: Collection[str] | None) -> Device | None:
    able = [device for device in machine.devices if allowed is None or device.id in allowed]
    return max(able, key=lambda device: _room(device, reserve_bytes), default=None)


def _with_companion(machine: Machine, companion: Companion) -> Machine:
    """The machine with the memory of `companion` counted."""
    uses = companion.uses
    devices = tuple(
        replace(device, companion_bytes=device.companion_bytes + uses[device.id].total_bytes)
        if device.id in uses
        else device
        for device in machine.devices
    )
    host = machine.host
    host = replace(host, companion_bytes=host.companion_bytes + uses[HOST].total_bytes)
    return replace(machine, devices=devices, host=host)


def _with_companions(estimate: _Estimate, n_bytes: int) -> _Estimate:
    """The same estimate plus `n_bytes` of companions; it must not count any yet."""
    return replace(estimate, companion_bytes=n_bytes, total_bytes=estimate.total_bytes + n_bytes)
