"""The store of sums between devices that `calibrate` measured, by the keys of the devices.

It is one JSON file in the user's data folder. A record is valid for the versions, drivers and links at the
time of measuring.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from vram_llm._version import __version__
from vram_llm.errors import VramLLMError
from vram_llm.machine import json_store
from vram_llm.machine.calibration_store import device_key, is_much_slower
from vram_llm.machine.types import Device, Fact, Link, Machine, MeasuredSum, Source

_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]


class SummingDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device as it was when a sum was measured."""

    key: str  # as in the store of calibrations
    name: str
    driver: str | None = None
    link_latency_s: _Seconds | None = None  # of a worker
    link_bytes_per_s: _Positive | None = None

    @property
    def link(self) -> Link | None:
        """The link to a worker, as facts."""
        if self.link_latency_s is None or self.link_bytes_per_s is None:
            return None
        latency, rate = (Fact(v, Source.MEASURED) for v in (self.link_latency_s, self.link_bytes_per_s))
        return Link(latency_s=latency, bytes_per_s=rate)


class SumRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The measured time of a sum over some devices: latency_s + bytes / bytes_per_s."""

    devices: tuple[SummingDevice, ...]
    latency_s: _Seconds
    bytes_per_s: _Positive
    measured_at: str  # ISO 8601, UTC
    vram_llm: str
    llama_cpp_python: str


class StoredSum(NamedTuple):
    """A record, None if it could not be measured, its key in the store, and notes on errors."""

    key: str
    record: SumRecord | None
    notes: tuple[str, ...]


def path() -> Path:
    """The path of the file."""
    return json_store.folder() / "sums.json"


def sum_key(devices: Iterable[Device]) -> str | None:
    """The key of a sum over these devices; None if one of them could not be recognised later."""
    keys = [device_key(device) for device in devices]
    return None if None in keys else " + ".join(sorted(key for key in keys if key is not None))


def new_record(devices: Sequence[Device], latency_s: float, bytes_per_s: float) -> SumRecord:
    """The record of a measurement that this program has just made, over devices that have keys."""
    return SumRecord(
        devices=tuple(
            SummingDevice(
                key=device_key(device) or "",
                name=device.name,
                driver=device.driver_version,
                link_latency_s=link.latency_s.value if (link := _worker_link(device)) else None,
                link_bytes_per_s=link.bytes_per_s.value if link else None,
            )
            for device in devices
        ),
        latency_s=latency_s,
        bytes_per_s=bytes_per_s,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        vram_llm=__version__,
        llama_cpp_python=json_store.llama_cpp_version(),
    )


def read() -> tuple[dict[str, SumRecord], tuple[str, ...]]:
    """All records by key, and a note if the file cannot be used."""
    return json_store.read(path(), SumRecord, "measured sums")


def store(key: str, record: SumRecord) -> StoredSum:
    """Store a record under `key`, in place of an older one. An error becomes a note."""
    records, notes = read()
    try:
        json_store.write(path(), {**records, key: record})
    except OSError as error:
        notes = (*notes, f"the measured sum cannot be stored in {path()}: {error.strerror or error}")
    return StoredSum(key, record, notes)


def forget(names: Iterable[str] | None) -> tuple[str, ...]:
    """Delete the sums with these keys, and those of devices with these keys or names; None: all.

    Returns the deleted keys. Raises VramLLMError if the file cannot be written.
    """
    records, _ = read()
    named = None if names is None else set(names)
    deleted = {
        key
        for key, record in records.items()
        if named is None
        or named & {key, *(name for each in record.devices for name in (each.key, each.name))}
    }
    if deleted or named is None:
        try:
            json_store.write(path(), {key: record for key, record in records.items() if key not in deleted})
        except OSError as error:
            raise VramLLMError(f"{path()} cannot be written: {error.strerror or error}") from error
    return tuple(sorted(deleted))


def with_measured_sums(machine: Machine) -> Machine:
    """`machine` with the measured sums of its devices. Notes name the unused records."""
    by_key = {device_key(device): device for device in machine.devices}
    if len(by_key) < 2:
        return machine
    records, notes = read()
    warnings, found = list(notes), []
    for key, record in records.items():
        devices = [by_key.get(each.key) for each in record.devices]
        present = [device for device in devices if device is not None]
        if len(present) < len(devices):
            continue
        if (change := _change(record, present)) is not None:
            again = "`vram-llm calibrate` measures it again"
            warnings.append(
                f"the sum of {key}, measured {record.measured_at[:10]}, is not used: {change}; {again}"
            )
            continue
        found.append(
            MeasuredSum(
                device_ids=frozenset(device.id for device in present),
                latency_s=record.latency_s,
                bytes_per_s=record.bytes_per_s,
            )
        )
    sums = dataclasses.replace(machine.sums, measured=tuple(found))
    return dataclasses.replace(machine, sums=sums, notes=(*machine.notes, *warnings))


def _change(record: SumRecord, devices: Sequence[Device]) -> str | None:
    """What has changed since a sum of these devices was measured; None: nothing that counts."""
    if record.llama_cpp_python != json_store.llama_cpp_version():
        return "it is of another llama-cpp-python"
    for then, now in zip(record.devices, devices, strict=True):
        if then.driver != now.driver_version:
            return f"{now.name} has another driver"
        link = _worker_link(now)
        if link is not None and then.link is not None and is_much_slower(link, then.link):
            return f"the link of {now.name} is slower"
    return None


def _worker_link(device: Device) -> Link | None:
    return device.link if device.endpoint is not None else None
