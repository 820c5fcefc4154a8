"""The store of calibrations: how fast llama.cpp computes on each device, on each worker and on the host.

It is one JSON file in the user's data folder, with a record for each device by its key: a card's UUID, a
worker's address, or the processor's name and threads. A record is valid only for the driver, the
llama-cpp-python and the worker's memory size at the time of measuring. The newest record is kept.
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
from vram_llm.machine.types import Device, Fact, Host, Link, Machine, Source, Speed, TypeSpeed

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


class TypeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The measured speed of a processor with weights of one type of ggml."""

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
    link_send_bytes_per_s: _Positive | None = None  # much data, from the host
    split_s: _Seconds | None = None  # for each part of a step's graph after another device's
    expert_read_share: _Positive | None = None
    attention_flops_per_s: _Positive | None = None
    types: dict[str, TypeRecord] | None = None  # by ggml's names; None: a card
    threads: int | None = None  # that were best; None: not on the host
    residual: float  # relative error of the formula of machine.types.Speed
    measured_at: str  # ISO 8601, UTC
    vram_llm: str
    llama_cpp_python: str
    driver: str | None = None
    worker_bytes: int | None = None  # all memory of a worker's device

    @property
    def speed(self) -> Speed:
        """The figures as facts."""
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
                    read_bytes_per_s=Fact(each.read_bytes_per_s, Source.MEASURED),
                    row_flops_per_s=Fact(each.row_flops_per_s, Source.MEASURED),
                    prompt_flops_per_s=Fact(each.prompt_flops_per_s, Source.MEASURED),
                )
                for name, each in (self.types or {}).items()
            ),
            threads=self.threads,
        )

    @property
    def link(self) -> Link | None:
        """The link's figures as facts."""
        latency, rate = _fact(self.link_latency_s), _fact(self.link_bytes_per_s)
        if latency is None or rate is None:
            return None
        send = _fact(self.link_send_bytes_per_s)
        return Link(latency_s=latency, bytes_per_s=rate, send_bytes_per_s=send)


class StoredCalibration(NamedTuple):
    """A record, its key in the store, and notes on errors of storing it."""

    name: str
    record: CalibrationRecord
    notes: tuple[str, ...]


def path() -> Path:
    """The file."""
    return json_store.folder() / "speed.json"


def key(of: Device | Host) -> str | None:
    """The key of a device or a host in the file; None if it cannot be recognised later."""
    if of.what_if and (isinstance(of, Host) or of.endpoint is None):
        return None
    if isinstance(of, Host):
        return f"{of.cpu_name or of.name}, {of.cores} threads"
    if of.endpoint is not None:
        return of.endpoint + (f" device {of.endpoint_index}" if of.endpoint_index else "")
    return of.uuid or of.pci_bus_id or (f"{of.ggml_name}, {of.name}" if of.ggml_name else None)


def record(of: Device | Host, speed: Speed, link: Link | None, residual: float) -> CalibrationRecord:
    """The record of a measurement made now by this program."""
    return CalibrationRecord(
        name=of.cpu_name or of.name if isinstance(of, Host) else of.name,
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
        types={each.type: _type_record(each) for each in speed.types} or None,
        threads=speed.threads,
        residual=residual,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        vram_llm=__version__,
        llama_cpp_python=json_store.llama_cpp_version(),
        driver=_driver(of),
        worker_bytes=_worker_bytes(of),
    )


def read() -> tuple[dict[str, CalibrationRecord], tuple[str, ...]]:
    """All records by key, and a note if the file cannot be used."""
    return json_store.read(path(), CalibrationRecord, "measured speeds")


def keep(name: str, found: CalibrationRecord) -> StoredCalibration:
    """Store a record under `name`, in place of an older one."""
    records, notes = read()
    try:
        json_store.write(path(), {**records, name: found})
    except OSError as error:
        notes = (*notes, f"the measured speeds cannot be stored in {path()}: {error.strerror or error}")
    return StoredCalibration(name, found, notes)


def forget(names: Iterable[str]) -> tuple[str, ...]:
    """Delete the records of these keys or device names; without names, all. Returns the deleted keys.

    Raises UnknownDevice if a name has no record, VramLLMError if the file cannot be used or written.
    """
    records, notes = read()
    wanted = tuple(names)
    if notes and wanted:
        raise VramLLMError(f"{notes[0]}; --forget all starts a new one")
    dropped = {key for name in wanted for key in _named(name, records)} if wanted else set(records)
    try:
        json_store.write(path(), {key: record for key, record in records.items() if key not in dropped})
    except OSError as error:
        raise VramLLMError(f"{path()} cannot be written: {error.strerror or error}") from error
    return tuple(sorted(dropped))


def with_speeds(machine: Machine) -> Machine:
    """`machine` with the measured speeds of its devices and its host. Notes name unused records."""
    records, notes = read()
    warnings = list(notes)

    def find(of: Device | Host) -> CalibrationRecord | None:
        found = records.get(key(of) or "")
        if found is None:
            return None
        now = (json_store.llama_cpp_version(), _driver(of), _worker_bytes(of))
        if (found.llama_cpp_python, found.driver, found.worker_bytes) == now:
            return found
        warnings.append(
            f"{found.name}: the speed measured {found.measured_at[:10]} is of another driver, worker or "
            "llama-cpp-python and is not used: `vram-llm calibrate` measures it again"
        )
        return None

    devices = []
    for device in machine.devices:
        known = find(device)
        devices.append(
            device if known is None else dataclasses.replace(device, speed=known.speed, link=known.link)
        )
    known, host = find(machine.host), machine.host
    if known is not None:
        host = dataclasses.replace(host, speed=known.speed)
    return dataclasses.replace(machine, devices=tuple(devices), host=host, notes=(*machine.notes, *warnings))


def _named(name: str, records: dict[str, CalibrationRecord]) -> list[str]:
    keys = [key for key, record in records.items() if name in (key, record.name)]
    if not keys:
        known = "; ".join(records) or "none"
        raise UnknownDevice(f"there are no measurements of {name!r}; measured so far: {known}")
    return keys


def _driver(of: Device | Host) -> str | None:
    return None if isinstance(of, Host) else of.driver_version


def _worker_bytes(of: Device | Host) -> int | None:
    return of.total_bytes if isinstance(of, Device) and of.endpoint is not None else None


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
