"""Files that share the devices with a model: where each goes, and what it leaves for the model.

An adapter's tensors lie with those they change. A projector lies on one device (clip_ctx in
tools/mtmd/clip.cpp); a draft model is kept whole on one too, since a small model gains nothing from being
cut, and the card that the model leaves idle is the best place for it. Else both go where most is free, and
the model is planned around them.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from vram_llm.errors import BadPlan
from vram_llm.machine.assumed_speed import device_speed
from vram_llm.machine.types import Device, Machine
from vram_llm.model.adapter import Adapter
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.estimates import DeviceEstimate, Estimate, MemoryUse
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.memory.lora import AdapterWeights
from vram_llm.planner.overhead import overhead_bytes
from vram_llm.planner.types import HOST, Companion, CompanionKind, Context, Lora, Meter, Placement, Plan


@dataclass(frozen=True, slots=True)
class Measured:
    """What a companion holds on its device and on the host, and by which meter."""

    method: str
    device: MemoryUse
    host: MemoryUse


@dataclass(frozen=True, slots=True, kw_only=True)
class UnplacedCompanion:
    """A projector or a draft model whose device is yet to be chosen."""

    kind: CompanionKind
    path: str
    name: str
    total_bytes: int
    measure: Callable[[Device | None], Measured]  # on a device, or for None on the host alone
    context: Context | None = None
    n_layers: int | None = None  # of a draft model


def place_companions(
    machine: Machine,
    candidates: Sequence[UnplacedCompanion],
    reserve_bytes: int,
    allowed: Collection[str] | None = None,
    idle: Collection[str] = (),
) -> tuple[tuple[Companion, ...], Machine]:
    """The companions in their places, and the machine with what they leave; the largest chooses first.

    A draft model goes to the fastest of the `idle` devices that holds it, which the model leaves alone. Else
    each goes to the device with most room among those `allowed`, or to the host where it does not fit there.
    """
    settled = []
    for each in sorted(candidates, key=lambda each: -each.total_bytes):
        device, found = _place(each, machine, reserve_bytes, allowed, idle)
        uses = {HOST: found.host} | ({} if device is None else {device.id: found.device})
        companion = Companion(
            kind=each.kind,
            path=each.path,
            name=each.name,
            total_bytes=each.total_bytes,
            device=HOST if device is None else device.id,
            uses=uses,
            method=found.method,
            context=each.context,
            n_layers=each.n_layers,
        )
        settled.append(companion)
        machine = _beside(machine, companion)
    return tuple(settled), machine


def _place(
    candidate: UnplacedCompanion,
    machine: Machine,
    reserve_bytes: int,
    allowed: Collection[str] | None,
    idle: Collection[str],
) -> tuple[Device | None, Measured]:
    """Where a companion goes, and what it holds there."""
    tried: list[Device] = []
    if candidate.kind is CompanionKind.DRAFT:
        free = (device for device in machine.devices if device.id in idle)
        tried += sorted(free, key=lambda device: (-_reads_per_s(device), -_room(device, reserve_bytes)))
    if (roomiest := _roomiest(machine, reserve_bytes, allowed)) is not None:
        tried.append(roomiest)
    for device in tried:
        found = candidate.measure(device)
        if found.device.total_bytes <= _room(device, reserve_bytes):
            return device, found
    return None, candidate.measure(None)


def adapters(
    profile: ModelProfile, machine: Machine, loras: Sequence[Lora], placement: Placement
) -> tuple[Companion, ...]:
    """What each of the model's adapters holds on each device of a placement."""
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


def draft_plan(plan: Plan) -> Plan | None:
    """The plan by which the draft model of `plan` is loaded; None where it has none. Raises BadPlan."""
    draft = next((each for each in plan.companions if each.kind is CompanionKind.DRAFT), None)
    if draft is None:
        return None
    if draft.device is None or draft.context is None or draft.n_layers is None:
        raise BadPlan("the saved plan does not say all of its draft model; plan again")
    ids = [] if draft.device == HOST else [draft.device]
    return replace(
        plan,
        model=replace(plan.model, path=draft.path, name=draft.name, total_bytes=draft.total_bytes),
        context=draft.context,
        placement=placement_from_counts(ids, [draft.n_layers] * len(ids), draft.n_layers),
        companions=(),
    )


def counting(meter: Meter, profile: ModelProfile, machine: Machine) -> Meter:
    """`meter`, which knows of the model alone, with all companions counted as well."""
    beside = {device.id: device.companion_bytes for device in machine.devices}
    beside[HOST] = machine.host.companion_bytes
    if not any(beside.values()) and not profile.adapters:
        return meter

    def measure(placement: Placement) -> Estimate:
        found = meter(placement)
        with_model = _adapter_bytes(profile.adapters, machine, placement)
        more = {name: beside[name] + n_bytes for name, n_bytes in with_model.items()}
        return replace(
            found,
            devices=tuple(each.with_companions(more[each.id]) for each in found.devices),
            host=found.host.with_companions(more[HOST]),
        )

    return measure


def _adapter_bytes(adapters: Sequence[Adapter], machine: Machine, placement: Placement) -> dict[str, int]:
    """Bytes of adapters on each device of a placement, and on the host."""
    weights, devices = AdapterWeights(adapters), {device.id: device for device in machine.devices}
    found, first = {}, placement.cpu_layers
    for name, count in zip(placement.device_order, placement.layers_per_device, strict=True):
        found[name] = weights.device_bytes(
            devices[name].alignment_bytes,
            devices[name].row_padding,
            first,
            first + count,
            has_output=placement.output_device == name,
        )
        first += count
    found[HOST] = weights.host_bytes(
        machine.host.alignment_bytes, placement.cpu_layers, has_output=placement.output_device == HOST
    )
    return found


def companion_only_devices(plan: Plan) -> tuple[DeviceEstimate, ...]:
    """The devices that hold nothing of the model, and what stands beside it there, in the plan's order."""
    found, devices = [], {device.id: device for device in plan.devices}
    for device in (devices[each] for each in plan.used if each not in plan.placement.device_order):
        uses = [each.uses[device.id] for each in plan.companions if device.id in each.uses]
        found.append(
            DeviceEstimate.of(
                device.id,
                MemoryUse(),
                overhead_bytes=overhead_bytes(device),
                budget_bytes=device.budget_bytes(device.reserve_bytes),
                companion_bytes=sum(use.total_bytes for use in uses),
            )
        )
    return tuple(found)


def _reads_per_s(device: Device) -> float:
    return device_speed(device).read_bytes_per_s.value


def _room(device: Device, reserve_bytes: int) -> int:
    return device.budget_bytes(reserve_bytes) - overhead_bytes(device) - device.companion_bytes


def _roomiest(machine: Machine, reserve_bytes: int, allowed: Collection[str] | None) -> Device | None:
    able = [device for device in machine.devices if allowed is None or device.id in allowed]
    return max(able, key=lambda device: _room(device, reserve_bytes), default=None)


def _beside(machine: Machine, companion: Companion) -> Machine:
    """The machine with a companion in its place."""
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
