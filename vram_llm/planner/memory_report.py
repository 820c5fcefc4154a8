"""Planned against real memory: what each device was planned to hold, what it holds, and its budget."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vram_llm.machine.types import Device
from vram_llm.planner.companions import companion_only_devices
from vram_llm.planner.estimates import DeviceEstimate, HostEstimate, MemoryUse
from vram_llm.planner.logits_check import LogitsCheck
from vram_llm.planner.types import HOST, CompanionKind, Plan
from vram_llm.units import MIB, format_bytes

NO_NVML = "no NVML"
NO_NVML_OVER_RPC = "no NVML over RPC"
NVML_TOO_LOW = "NVML reports less"  # than llama.cpp holds, so the figure is not for this process
OF_PROCESS = "NVML, this process"
NOTICEABLE_BYTES = 64 * MIB  # and 2 %: a user would not act on less
OF_CARD = "NVML, growth of the card"  # includes what other programs allocated or freed meanwhile

_NOTHING = MemoryUse()


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Bytes that the engine uses on a device and how they were measured, or None and the reason."""

    used_bytes: int | None
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRow:
    """One kind of memory on one device. `held_bytes` is None if it cannot be measured."""

    kind: str  # "weights", "context", "compute", "draft", "beside" or "overhead"
    planned_bytes: int
    held_bytes: int | None
    how: str  # source of `held_bytes`, or why there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One device, or the host. In `held_bytes`, kinds that were not measured count as planned."""

    id: str
    name: str
    kinds: tuple[KindRow, ...]
    planned_bytes: int
    held_bytes: int
    budget_bytes: int
    over_bytes: int  # held over the budget; negative if there is room

    @property
    def overhead(self) -> KindRow | None:
        """Bytes outside llama.cpp's buffers; the host has no such row."""
        return next((row for row in self.kinds if row.kind == "overhead"), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """Planned and held bytes of every device that the plan uses, the host last."""

    model: str
    method: str  # the meter the plan was made with
    devices: tuple[DeviceRow, ...]
    within_budget: bool
    notes: tuple[str, ...] = ()
    logits: LogitsCheck | None = None  # of a tensor split that was compared with the layer split

    @property
    def passed(self) -> bool:
        """Whether every device is within its budget, and no logits are wrong."""
        return self.within_budget and (self.logits is None or self.logits.agrees)

    @property
    def verdict(self) -> str:
        """One sentence: every device is within its budget, or which is over by how much, and what to try."""
        over = [
            f"{row.name} holds {format_bytes(row.over_bytes)} more than its budget of "
            f"{format_bytes(row.budget_bytes)}"
            for row in self.devices
            if row.over_bytes > 0
        ]
        if not over:
            return "every device is within its budget"
        return f"{'; '.join(over)}: plan again, with a larger --reserve-mib or a smaller --n-ctx"

    @property
    def is_far_off(self) -> bool:
        """Whether a device is over its budget, or holds noticeably more than planned."""
        return not self.within_budget or any(
            device.held_bytes - device.planned_bytes > max(NOTICEABLE_BYTES, device.planned_bytes / 50)
            for device in self.devices
        )

    @property
    def exact_kinds(self) -> tuple[str, ...]:
        """The kinds that every device holds as planned, to the byte."""
        rows = [row for device in self.devices for row in device.kinds]
        kinds = dict.fromkeys(row.kind for row in rows)
        wrong = {row.kind for row in rows if row.held_bytes != row.planned_bytes}
        return tuple(kind for kind in kinds if kind not in wrong)


def memory_report(
    plan: Plan,
    held: Mapping[str, MemoryUse],
    readings: Mapping[str, MemoryReading] | None = None,
    draft: Mapping[str, MemoryUse] | None = None,
) -> MemoryReport:
    """Compare the plan with llama.cpp's report after the load and with readings, all by device id.

    `held` is the memory of the model, `draft` that of the draft model. A device that llama.cpp does not
    report holds nothing.
    """
    companion_rows = _companion_rows(plan, draft or {})
    devices = {device.id: device for device in plan.devices}
    rows = []
    for estimate in (*plan.estimate.devices, *companion_only_devices(plan)):
        device = devices[estimate.id]
        reading = (readings or {}).get(estimate.id) or MemoryReading(None, _why_none(device))
        use = held.get(estimate.id, _NOTHING)
        rows.append(_device_row(estimate, device, use, reading, companion_rows[estimate.id]))
    rows.append(_host_row(plan.estimate.host, held.get(HOST, _NOTHING), companion_rows[HOST]))
    return MemoryReport(
        model=plan.model.name,
        method=plan.estimate.method,
        devices=tuple(rows),
        within_budget=all(row.over_bytes <= 0 for row in rows),
    )


def readings(
    plan: Plan,
    held: Iterable[Mapping[str, MemoryUse]],
    before: Mapping[str, int],
    after: Mapping[str, int],
    process: Mapping[str, int],
) -> dict[str, MemoryReading]:
    """Memory of the engine on each local card: NVML's figure for its process, else the growth of the card.

    `held` is llama.cpp's memory by device id, for each model that the engine loaded. `before` and `after` the
    load are bytes in use by UUID; `process` are the engine's own bytes after the load. Figures below
    llama.cpp's own memory on the card are ignored.
    """
    readings = {}
    buffers: dict[str, int] = {}
    for device_id, use in (item for uses in held for item in uses.items()):
        buffers[device_id] = buffers.get(device_id, 0) + use.total_bytes
    for device in plan.devices:
        uuid = device.uuid
        if device.endpoint is not None or uuid is None or uuid not in after:
            continue
        least = buffers.get(device.id, 0)
        growth = after[uuid] - before.get(uuid, after[uuid])
        candidates = [MemoryReading(process.get(uuid), OF_PROCESS), MemoryReading(growth, OF_CARD)]
        usable = [found for found in candidates if found.used_bytes is not None and found.used_bytes >= least]
        readings[device.id] = usable[0] if usable else MemoryReading(None, NVML_TOO_LOW)
    return readings


def _device_row(
    estimate: DeviceEstimate,
    device: Device,
    held: MemoryUse,
    reading: MemoryReading,
    companion_rows: tuple[KindRow, ...],
) -> DeviceRow:
    buffers = held.total_bytes + _held_of(companion_rows)
    overhead = None if reading.used_bytes is None else reading.used_bytes - buffers
    kinds = (
        *_kinds(estimate, held),
        *companion_rows,
        KindRow(kind="overhead", planned_bytes=estimate.overhead_bytes, held_bytes=overhead, how=reading.how),
    )
    total = buffers + (estimate.overhead_bytes if overhead is None else overhead)
    return DeviceRow(
        id=estimate.id,
        name=f"{device.name} ({device.id})",
        kinds=kinds,
        planned_bytes=estimate.total_bytes,
        held_bytes=total,
        budget_bytes=estimate.budget_bytes,
        over_bytes=total - estimate.budget_bytes,
    )


def _host_row(estimate: HostEstimate, held: MemoryUse, companion_rows: tuple[KindRow, ...]) -> DeviceRow:
    total = held.total_bytes + _held_of(companion_rows) - estimate.disk_bytes
    return DeviceRow(
        id=HOST,
        name="the computer's memory",
        kinds=(*_kinds(estimate, held), *companion_rows),
        planned_bytes=estimate.total_bytes,
        held_bytes=total,
        budget_bytes=estimate.budget_bytes,
        over_bytes=total - estimate.budget_bytes,
    )


def _kinds(estimate: DeviceEstimate | HostEstimate, held: MemoryUse) -> tuple[KindRow, ...]:
    pairs = (
        ("weights", estimate.weights_bytes, held.weights_bytes),
        ("context", estimate.context_bytes, held.context_bytes),
        ("compute", estimate.compute_bytes, held.compute_bytes),
    )
    return tuple(
        KindRow(kind=kind, planned_bytes=planned, held_bytes=now, how="llama.cpp")
        for kind, planned, now in pairs
    )


def _companion_rows(plan: Plan, draft: Mapping[str, MemoryUse]) -> dict[str, tuple[KindRow, ...]]:
    """The rows of companions by device id: the draft model, then adapters and projectors.

    llama.cpp does not report the memory of adapters and projectors.
    """
    rows_by_id = {}
    uses = (*plan.estimate.devices, *companion_only_devices(plan))
    planned = {use.id: use.companion_bytes for use in uses} | {HOST: plan.estimate.host.companion_bytes}
    all_drafts = [companion for companion in plan.companions if companion.kind is CompanionKind.DRAFT]
    for name, n_bytes in planned.items():
        drafts = [draft_model for draft_model in all_drafts if name in draft_model.uses]
        of_draft = sum(draft_model.uses[name].total_bytes for draft_model in drafts)
        rows = []
        if drafts:
            held = draft.get(name, _NOTHING).total_bytes
            rows.append(KindRow(kind="draft", planned_bytes=of_draft, held_bytes=held, how="llama.cpp"))
        if more := n_bytes - of_draft:
            reason = "llama.cpp does not report it"
            rows.append(KindRow(kind="beside", planned_bytes=more, held_bytes=None, how=reason))
        rows_by_id[name] = tuple(rows)
    return rows_by_id


def _held_of(rows: Iterable[KindRow]) -> int:
    """Bytes held in `rows`; kinds that were not measured count as planned."""
    return sum(row.planned_bytes if row.held_bytes is None else row.held_bytes for row in rows)


def _why_none(device: Device) -> str:
    return NO_NVML if device.endpoint is None else NO_NVML_OVER_RPC
