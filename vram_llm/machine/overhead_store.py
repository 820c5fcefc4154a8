"""What `verify` learned of this machine's cards: bytes a process takes outside llama.cpp's buffers.

One JSON file in the user's data folder, a record for each card by its UUID. A record counts only under the
driver and the llama-cpp-python it was measured with. Of several measurements the largest is kept: what
libraries and pools take grows with the model and its batch.
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
    """One card's overhead, and under what it was measured."""

    name: str
    overhead_bytes: Annotated[int, msgspec.Meta(ge=0, lt=2**50)]
    how: str
    model: str
    measured_at: str  # ISO 8601, UTC
    vram_llm: str
    llama_cpp_python: str
    driver: str | None


def path() -> Path:
    """The file."""
    return json_store.folder() / "overhead.json"


def record(
    device: Device, overhead_bytes: int, *, how: str, model: str, driver: str | None
) -> OverheadRecord:
    """A measurement made now, by this program."""
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


def keep(new: Mapping[str, OverheadRecord]) -> tuple[str, ...]:
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
            json_store.write(path(), cards)
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
        elif _versions(known) != (json_store.llama_cpp_version(), device.driver_version):
            said.append(
                f"{device.id}'s overhead, measured under another driver or llama-cpp-python, is not used: "
                "`vram-llm verify MODEL` measures it again"
            )
            devices.append(device)
        else:
            overhead = Fact(known.overhead_bytes, Source.MEASURED)
            devices.append(dataclasses.replace(device, overhead=overhead))
    return dataclasses.replace(machine, devices=tuple(devices), notes=(*machine.notes, *said))


def _versions(of: OverheadRecord) -> tuple[str, str | None]:
    return of.llama_cpp_python, of.driver


def _read() -> tuple[dict[str, OverheadRecord], tuple[str, ...]]:
    return json_store.read(path(), OverheadRecord, "overheads learned")
