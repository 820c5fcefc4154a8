"""What `verify` learned of this machine's cards: bytes a process takes outside llama.cpp's buffers.

One JSON file in the user's data folder, a record for each card by its UUID. A record counts only under the
driver and the llama-cpp-python it was measured with. Of several measurements the largest is kept: what
libraries and pools take grows with the model and its batch.
"""

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

import msgspec
import platformdirs

from vram_llm import __version__
from vram_llm.machine.types import Device, Fact, Machine, Source

DATA_DIR_VARIABLE = "VRAM_LLM_DATA_DIR"

_FILE_VERSION = 1


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One card's overhead, and under what it was measured."""

    name: str
    overhead_bytes: Annotated[int, msgspec.Meta(ge=0, lt=2**50)]
    how: str
    model: str
    measured_at: str  # ISO 8601, UTC
    vram_llm: str
    llama_cpp_python: str
    driver: str | None


class _File(msgspec.Struct, kw_only=True):
    version: int
    cards: dict[str, Record]


def path() -> Path:
    """The file; $VRAM_LLM_DATA_DIR names another folder for it."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or platformdirs.user_data_dir("vram-llm")) / "overhead.json"


def record(device: Device, overhead_bytes: int, *, how: str, model: str, driver: str | None) -> Record:
    """A measurement made now, by this program."""
    return Record(
        name=device.name,
        overhead_bytes=overhead_bytes,
        how=how,
        model=model,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        vram_llm=__version__,
        llama_cpp_python=_llama_cpp_version(),
        driver=driver,
    )


def keep(new: Mapping[str, Record]) -> tuple[str, ...]:
    """Write records by UUID to the file, except where a larger one of the same versions is there.

    What was done, in sentences; that it could not be written is one of them, and no error.
    """
    cards, notes = _read()
    said = list(notes)
    for uuid, found in new.items():
        before = cards.get(uuid)
        if before and _versions(before) == _versions(found) and before.overhead_bytes >= found.overhead_bytes:
            said.append(f"{found.name}: the larger overhead measured {before.measured_at} is kept")
            continue
        cards[uuid] = found
        said.append(f"{found.name}: this overhead is kept, and planned with from now on")
    if any(cards[uuid] is found for uuid, found in new.items()):
        try:
            _write(cards)
        except OSError as error:
            return (*notes, f"the overhead measured cannot be kept in {path()}: {error.strerror or error}")
    return tuple(said)


def with_overheads(machine: Machine) -> Machine:
    """`machine` with the overhead learned of each of its cards; what is not used is in its notes."""
    if not machine.devices:
        return machine
    cards, notes = _read()
    devices, said = [], list(notes)
    for device in machine.devices:
        known = cards.get(device.uuid) if device.uuid else None
        if known is None:
            devices.append(device)
        elif _versions(known) != (_llama_cpp_version(), device.driver_version):
            said.append(
                f"{device.id}'s overhead, measured under another driver or llama-cpp-python, is not used: "
                "`vram-llm verify MODEL` measures it again"
            )
            devices.append(device)
        else:
            overhead = Fact(known.overhead_bytes, Source.MEASURED)
            devices.append(dataclasses.replace(device, overhead=overhead))
    return dataclasses.replace(machine, devices=tuple(devices), notes=(*machine.notes, *said))


def _versions(of: Record) -> tuple[str, str | None]:
    return of.llama_cpp_python, of.driver


def _llama_cpp_version() -> str:
    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return "unknown"


def _read() -> tuple[dict[str, Record], tuple[str, ...]]:
    """The records, and a note where the file is there and cannot be used."""
    try:
        found = msgspec.json.decode(path().read_bytes(), type=_File)
    except FileNotFoundError:
        return {}, ()
    except OSError as error:
        return {}, (f"the overheads learned, {path()}, cannot be read: {error.strerror or error}",)
    except (msgspec.MsgspecError, UnicodeError) as error:
        return {}, (f"the overheads learned, {path()}, are damaged and not used: {error}",)
    if found.version != _FILE_VERSION:
        return {}, (f"the overheads learned, {path()}, are of another version of this program and not used",)
    return found.cards, ()


def _write(cards: dict[str, Record]) -> None:
    """All records in place of the old ones: a reader finds either, and never a part."""
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, suffix=".new")
    try:
        with open(descriptor, "wb") as stream:
            file = _File(version=_FILE_VERSION, cards=cards)
            stream.write(msgspec.json.format(msgspec.json.encode(file), indent=2))
        os.replace(name, target)
    except OSError:
        os.unlink(name)
        raise
