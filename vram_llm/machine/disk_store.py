"""The store of disk speeds that `calibrate` measured, by the place where a disk is mounted.

It is one JSON file in the user's data folder.
"""

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from vram_llm._version import __version__
from vram_llm.errors import VramLLMError
from vram_llm.machine import json_store
from vram_llm.machine.host import ROOT
from vram_llm.machine.system_files import read_text
from vram_llm.machine.types import Fact, Machine, Source


class DiskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How fast one disk reads, and the file that was read."""

    read_bytes_per_s: Annotated[float, msgspec.Meta(gt=0)]
    file: str
    measured_at: str  # ISO 8601, UTC
    vram_llm: str


class StoredDisk(NamedTuple):
    """A record, its key in the store, and notes on errors of storing it."""

    key: str
    record: DiskRecord
    notes: tuple[str, ...]


def path() -> Path:
    """The path of the file."""
    return json_store.folder() / "disks.json"


def disk_key(file: Path, root: Path = ROOT) -> str | None:
    """The disk of a file as the store names it, "/home (/dev/nvme0n1p2)"; None if this is not known."""
    file = file.resolve()
    mounts = [_mount(line) for line in read_text(root / "proc/self/mountinfo").splitlines()]
    above = [(len(place.parts), str(place), source) for place, source in mounts if file.is_relative_to(place)]
    if not above:
        return None
    _, place, source = max(above)
    return f"{place} ({source})"


def new_record(read_bytes_per_s: float, file: Path) -> DiskRecord:
    """The record of a measurement that this program has just made."""
    return DiskRecord(
        read_bytes_per_s=read_bytes_per_s,
        file=str(file),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        vram_llm=__version__,
    )


def read() -> tuple[dict[str, DiskRecord], tuple[str, ...]]:
    """All records by key, and a note if the file cannot be used."""
    return json_store.read(path(), DiskRecord, "measured disks")


def store(key: str, record: DiskRecord) -> StoredDisk:
    """Store a record under `key`, in place of an older one. An error becomes a note."""
    records, notes = read()
    try:
        json_store.write(path(), {**records, key: record})
    except OSError as error:
        notes = (*notes, f"the measured disk cannot be stored in {path()}: {error.strerror or error}")
    return StoredDisk(key, record, notes)


def forget(keys: Iterable[str]) -> tuple[str, ...]:
    """Delete the records of these keys, as far as there are any. Returns the deleted keys.

    Raises VramLLMError if the file cannot be written.
    """
    records, _ = read()
    deleted = tuple(sorted(set(keys) & set(records)))
    if deleted:
        try:
            json_store.write(path(), {key: record for key, record in records.items() if key not in deleted})
        except OSError as error:
            raise VramLLMError(f"{path()} cannot be written: {error.strerror or error}") from error
    return deleted


def with_disk(machine: Machine, file: Path) -> Machine:
    """`machine` with the measured speed of the disk that holds `file`, unless its speed is known already."""
    if machine.host.what_if or machine.host.disk_bytes_per_s is not None:
        return machine
    records, notes = read()
    record = records.get(disk_key(file) or "")
    if record is None:
        return dataclasses.replace(machine, notes=(*machine.notes, *notes)) if notes else machine
    rate = Fact(record.read_bytes_per_s, Source.MEASURED)
    return dataclasses.replace(machine, host=dataclasses.replace(machine.host, disk_bytes_per_s=rate))


def _mount(line: str) -> tuple[Path, str]:
    """Where a line of mountinfo mounts what: its fifth word, and the second after the dash (proc(5))."""
    words = line.split()
    after = words[words.index("-") + 1 :] if "-" in words else []
    place = words[4].replace("\\040", " ") if len(words) > 4 else "/"
    return Path(place), after[1] if len(after) > 1 else "unknown"
