"""The store of calibrations: the measured speeds of llama.cpp on cards, workers and hosts.

It is one JSON file in the user's data folder, with a record for each device by its key: a card's UUID, a
worker's address, or the processor's name and threads. A record is valid only for the driver, the
llama-cpp-python and the worker's memory size at the time of measuring. A new record replaces the old one.
"""

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from vram_llm._version import __version__
from vram_llm.errors import UnknownDevice, VramLLMError
from vram_llm.machine import json_store
from vram_llm.machine.links import described_link
from vram_llm.machine.types import Device, Fact, Host, Link, Machine, Source, Speed, TypeSpeed

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


_LATENCY_NOISE_S = 2e-3  # of a busy computer
_FAST_LINK_BYTES_PER_S = 2e9  # faster ones are memory or PCIe, and no link that a step waits for


class TypeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The measured speed of a processor with weights of one ggml type."""

    read_bytes_per_s: _Positive
    row_flops_per_s: _Positive
    prompt_flops_per_s: _Positive


class CalibrationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The measured speed of one device, and the versions it was measured with."""

    name: str
    read_bytes_per_s: _Positive
    layer_overhead_s: _Seconds
    step_overhead_s: _Seconds
    row_flops_per_s: _Positive | None
    prompt_flops_per_s: _Positive | None
    link_latency_s: _Seconds | None = None
    link_bytes_per_s: _Positive | None = None
    link_send_bytes_per_s: _Positive | None = None  # of large transfers from the host
    split_s: _Seconds | None = None  # for each split of a step's graph that follows another device's
    expert_read_share: _Positive | None = None
    attention_flops_per_s: _Positive | None = None
    types: dict[str, TypeRecord] | None = None  # by the name of the ggml type; None: not a processor
    threads: int | None = None  # the fastest number of threads; None: not a processor
    residual: float  # relative error of the formula of machine.types.Speed
    measured_at: str  # ISO 8601, UTC
    vram_llm: str
    llama_cpp_python: str
    driver: str | None = None
    worker_bytes: int | None = None  # total memory of a worker's device
    tuned_with: str | None = None  # the model whose plans `tune` measured; None: `calibrate` measured it

    @property
    def speed(self) -> Speed:
        """The measured speed, as facts."""
        return Speed(
            read_bytes_per_s=Fact(self.read_bytes_per_s, Source.MEASURED),
            layer_overhead_s=Fact(self.layer_overhead_s, Source.MEASURED),
            step_overhead_s=Fact(self.step_overhead_s, Source.MEASURED),
            row_flops_per_s=_fact(self.row_flops_per_s),
            prompt_flops_per_s=_fact(self.prompt_flops_per_s),
            split_s=_fact(self.split_s),
            expert_read_share=_fact(self.expert_read_share),
            attention_flops_per_s=_fact(self.attention_flops_per_s),
            types=tuple(
                TypeSpeed(
                    type=name,
                    read_bytes_per_s=Fact(record.read_bytes_per_s, Source.MEASURED),
                    row_flops_per_s=Fact(record.row_flops_per_s, Source.MEASURED),
                    prompt_flops_per_s=Fact(record.prompt_flops_per_s, Source.MEASURED),
                )
                for name, record in (self.types or {}).items()
            ),
            threads=self.threads,
        )

    @property
    def link(self) -> Link | None:
        """The measured link, as facts; None if it was not measured."""
        latency, rate = _fact(self.link_latency_s), _fact(self.link_bytes_per_s)
        if latency is None or rate is None:
            return None
        send = _fact(self.link_send_bytes_per_s)
        return Link(latency_s=latency, bytes_per_s=rate, send_bytes_per_s=send)


class StoredCalibration(NamedTuple):
    """A record, its key in the store, and notes on errors of storing it."""

    key: str
    record: CalibrationRecord
    notes: tuple[str, ...]


def path() -> Path:
    """The path of the file."""
    return json_store.folder() / "speed.json"


def device_key(device: Device | Host) -> str | None:
    """The key of a device or of the host in the store; None if it could not be recognised later."""
    if device.what_if and (isinstance(device, Host) or device.endpoint is None):
        return None
    if isinstance(device, Host):
        return f"{device.cpu_name or device.name}, {device.cores} threads"
    if device.endpoint is not None:
        return (device.tunnel or device.endpoint) + (
            f" device {device.endpoint_index}" if device.endpoint_index else ""
        )
    ggml_key = f"{device.ggml_name}, {device.name}" if device.ggml_name else None
    return device.uuid or device.pci_bus_id or ggml_key


def new_record(
    device: Device | Host,
    speed: Speed,
    link: Link | None,
    residual: float,
    *,
    tuned_with: str | None = None,
) -> CalibrationRecord:
    """The record of a measurement that this program has just made; `residual` is its relative error."""
    return CalibrationRecord(
        name=device.cpu_name or device.name if isinstance(device, Host) else device.name,
        read_bytes_per_s=speed.read_bytes_per_s.value,
        layer_overhead_s=speed.layer_overhead_s.value,
        step_overhead_s=speed.step_overhead_s.value,
        row_flops_per_s=_value(speed.row_flops_per_s),
        prompt_flops_per_s=_value(speed.prompt_flops_per_s),
        link_latency_s=link.latency_s.value if link else None,
        link_bytes_per_s=link.bytes_per_s.value if link else None,
        link_send_bytes_per_s=_value(link.send_bytes_per_s) if link else None,
        split_s=_value(speed.split_s),
        expert_read_share=_value(speed.expert_read_share),
        attention_flops_per_s=_value(speed.attention_flops_per_s),
        types={type_speed.type: _type_record(type_speed) for type_speed in speed.types} or None,
        threads=speed.threads,
        residual=residual,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        vram_llm=__version__,
        llama_cpp_python=json_store.llama_cpp_version(),
        driver=_driver(device),
        worker_bytes=_worker_bytes(device),
        tuned_with=tuned_with,
    )


def read() -> tuple[dict[str, CalibrationRecord], tuple[str, ...]]:
    """All records by key, and a note if the file cannot be used."""
    return json_store.read(path(), CalibrationRecord, "measured speeds")


def store(key: str, record: CalibrationRecord) -> StoredCalibration:
    """Store a record under `key`, in place of an older one. An error becomes a note."""
    records, notes = read()
    try:
        json_store.write(path(), {**records, key: record})
    except OSError as error:
        notes = (*notes, f"the measured speeds cannot be stored in {path()}: {error.strerror or error}")
    return StoredCalibration(key, record, notes)


def forget(names: Iterable[str]) -> tuple[str, ...]:
    """Delete the records of these keys or device names; without names, all records. Returns the deleted keys.

    Raises UnknownDevice if a name has no record, VramLLMError if the file cannot be used or written.
    """
    records, notes = read()
    names = tuple(names)
    if notes and names:
        raise VramLLMError(f"{notes[0]}; --forget all starts a new one")
    deleted = {key for name in names for key in _keys_of(name, records)} if names else set(records)
    try:
        json_store.write(path(), {key: record for key, record in records.items() if key not in deleted})
    except OSError as error:
        raise VramLLMError(f"{path()} cannot be written: {error.strerror or error}") from error
    return tuple(sorted(deleted))


def with_measured_speeds(machine: Machine) -> Machine:
    """`machine` with the measured speeds of its devices and its host. Notes name unused records."""
    records, notes = read()
    warnings = list(notes)

    def valid_record(device: Device | Host) -> CalibrationRecord | None:
        record = records.get(device_key(device) or "")
        if record is None:
            return None
        versions = (json_store.llama_cpp_version(), _driver(device), _worker_bytes(device))
        if (record.llama_cpp_python, record.driver, record.worker_bytes) == versions:
            return record
        warnings.append(
            f"{record.name}: the speed measured {record.measured_at[:10]} is of another driver, worker or "
            "llama-cpp-python and is not used: `vram-llm calibrate` measures it again"
        )
        return None

    devices = []
    for device in machine.devices:
        record = valid_record(device)
        if record is not None:
            device, note = _with_record(device, record)
            warnings += note
        devices.append(device)
    record, host = valid_record(machine.host), machine.host
    if record is not None:
        host = dataclasses.replace(host, speed=record.speed)
    return dataclasses.replace(machine, devices=tuple(devices), host=host, notes=(*machine.notes, *warnings))


def _with_record(device: Device, record: CalibrationRecord) -> tuple[Device, tuple[str, ...]]:
    """`device` with the measured speed; with a note if its link has become much slower since."""
    then, now = record.link, device.link
    if device.endpoint is None or then is None or now is None or not is_much_slower(now, then):
        return dataclasses.replace(device, speed=record.speed, link=then), ()
    more_s = 2 * max(now.latency_s.value - then.latency_s.value, 0.0)
    speed = dataclasses.replace(
        record.speed,
        step_overhead_s=Fact(record.step_overhead_s + more_s, Source.MEASURED),
        split_s=None if record.split_s is None else Fact(record.split_s + more_s, Source.MEASURED),
    )
    note = (
        f"the link of {device.name} is slower than when it was calibrated: {described_link(now)} now, "
        f"{described_link(then)} then; the plan counts with the present one"
    )
    return dataclasses.replace(device, speed=speed, link=now), (note,)


def is_much_slower(now: Link, then: Link) -> bool:
    """Whether a link has half of its bandwidth or twice its latency: short measurements differ by less."""
    slower_s = now.latency_s.value - then.latency_s.value
    is_late = slower_s > max(then.latency_s.value, _LATENCY_NOISE_S)
    is_narrow = 2 * now.bytes_per_s.value < then.bytes_per_s.value < _FAST_LINK_BYTES_PER_S
    return is_late or is_narrow


def _keys_of(name: str, records: dict[str, CalibrationRecord]) -> list[str]:
    """The keys of the records with this key or device name. Raises UnknownDevice if there is none."""
    keys = [key for key, record in records.items() if name in (key, record.name)]
    if not keys:
        measured = "; ".join(records) or "none"
        raise UnknownDevice(f"there are no measurements of {name!r}; measured so far: {measured}")
    return keys


def _driver(device: Device | Host) -> str | None:
    return None if isinstance(device, Host) else device.driver_version


def _worker_bytes(device: Device | Host) -> int | None:
    return device.total_bytes if isinstance(device, Device) and device.endpoint is not None else None


def _type_record(speed: TypeSpeed) -> TypeRecord:
    return TypeRecord(
        read_bytes_per_s=speed.read_bytes_per_s.value,
        row_flops_per_s=speed.row_flops_per_s.value,
        prompt_flops_per_s=speed.prompt_flops_per_s.value,
    )


def _value(fact: Fact | None) -> float | None:
    return None if fact is None else fact.value


def _fact(value: float | None) -> Fact | None:
    return None if value is None else Fact(value, Source.MEASURED)
