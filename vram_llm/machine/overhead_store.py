"""The store of overheads that `verify` measured: bytes of a process outside llama.cpp's buffers, by card.

It is one JSON file in the user's data folder, with a record for each card by its UUID. A record is valid only
for the driver and the llama-cpp-python of its measurement. Of several measurements, the largest is stored,
because the memory of libraries and pools grows with the model and its batch.
"""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from vram_llm._version import __version__
from vram_llm.machine import json_store
from vram_llm.machine.types import Device, Fact, Machine, Source


class OverheadRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One card's overhead, and the versions it was measured with."""

    name: str
    overhead_bytes: Annotated[int, msgspec.Meta(ge=0, lt=2**50)]
    how: str
    model: str
    measured_at: str  # ISO 8601, UTC
    vram_llm: str
    llama_cpp_python: str
    driver: str | None


def path() -> Path:
    """The path of the file."""
    return json_store.folder() / "overhead.json"


def new_record(
    device: Device, overhead_bytes: int, *, how: str, model: str, driver: str | None
) -> OverheadRecord:
    """The record of a measurement that this program has just made."""
    return OverheadRecord(
        name=device.name,
        overhead_bytes=overhead_bytes,
        how=how,
        model=model,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        vram_llm=__version__,
        llama_cpp_python=json_store.llama_cpp_version(),
        driver=driver,
    )


def store(new: Mapping[str, OverheadRecord]) -> tuple[str, ...]:
    """Store records by UUID, unless the file has a larger one of the same versions.

    Returns sentences on the result. An error of writing becomes a sentence too.
    """
    records, notes = _read()
    results = list(notes)
    for uuid, measured in new.items():
        old = records.get(uuid)
        is_same_version = old is not None and _versions(old) == _versions(measured)
        if old is not None and is_same_version and old.overhead_bytes >= measured.overhead_bytes:
            results.append(f"{measured.name}: the larger overhead measured {old.measured_at} is kept")
            continue
        records[uuid] = measured
        results.append(f"{measured.name}: this overhead is stored, and later plans include it")
    if any(records[uuid] is measured for uuid, measured in new.items()):
        try:
            json_store.write(path(), records)
        except OSError as error:
            return (*notes, f"the measured overhead cannot be stored in {path()}: {error.strerror or error}")
    return tuple(results)


def with_overheads(machine: Machine) -> Machine:
    """`machine` with the measured overhead of each of its cards. Notes name records that are not used."""
    if not machine.devices:
        return machine
    records, notes = _read()
    devices, warnings = [], list(notes)
    for device in machine.devices:
        record = records.get(device.uuid) if device.uuid else None
        if record is None:
            devices.append(device)
        elif _versions(record) != (json_store.llama_cpp_version(), device.driver_version):
            warnings.append(
                f"{device.id}'s overhead, measured under another driver or llama-cpp-python, is not used: "
                "`vram-llm verify MODEL` measures it again"
            )
            devices.append(device)
        else:
            overhead = Fact(record.overhead_bytes, Source.MEASURED)
            devices.append(dataclasses.replace(device, overhead=overhead))
    return dataclasses.replace(machine, devices=tuple(devices), notes=(*machine.notes, *warnings))


def _versions(record: OverheadRecord) -> tuple[str, str | None]:
    return record.llama_cpp_python, record.driver


def _read() -> tuple[dict[str, OverheadRecord], tuple[str, ...]]:
    return json_store.read(path(), OverheadRecord, "measured overheads")
