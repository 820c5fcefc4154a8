"""The store of tuned plans: the fastest one of a model on a rig for a workload, and all measurements.

It is one JSON file in the user's data folder. A record holds for the content of the model's files, for the
devices with their drivers and this llama-cpp-python, and for the workload's options.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from vram_llm._version import __version__
from vram_llm.machine import json_store
from vram_llm.machine.calibration_store import device_key
from vram_llm.machine.types import Machine
from vram_llm.model.file_identity import FileIdentity
from vram_llm.planner.tuning.choice import TunedChoice
from vram_llm.planner.types import PLAN_VERSION, Serving, Workload

_MOST_RECORDS = 64  # the oldest is dropped
_OPEN, _LARGEST = "auto", "max"  # lengths of a context that the planner chooses


class RigDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device as a record knows it. Its id may be another one in the next run."""

    id: str
    key: str
    total_bytes: int
    driver: str | None = None


class MeasuredRow(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was measured: medians of its measurements."""

    name: str
    choice: TunedChoice
    request_s: float  # of a typical request of each stream
    step_s: float
    prompt_token_s: float
    n_measurements: int
    by_generation: bool = False  # of text that the model wrote; else of decode steps


class TunedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of one model on one rig for one workload. Without `choice` no run came to an end."""

    model: str
    path: str
    content: str
    devices: tuple[RigDevice, ...]
    host: str
    llama_cpp_python: str
    plan_version: int
    wish: str  # a digest of the workload without its context
    ctx: str  # "auto", "max" or "given"
    n_ctx: int
    choice: TunedChoice | None
    tokens_per_s: float | None  # of all expected streams together
    gain: float | None  # over the prediction's choice; None: it is the prediction's choice, or that failed
    margin: float | None
    tuned_at: str  # ISO 8601, UTC
    vram_llm: str
    rows: tuple[MeasuredRow, ...]


def path() -> Path:
    """The path of the file."""
    return json_store.folder() / "tuned.json"


def read() -> tuple[dict[str, TunedRecord], tuple[str, ...]]:
    """All records by key, and a note if the file cannot be used."""
    return json_store.read(path(), TunedRecord, "tuned plans")


class StoredPlan(NamedTuple):
    """Whether a record is on the disk now, and notes."""

    is_stored: bool
    notes: tuple[str, ...]


def store(record: TunedRecord) -> StoredPlan:
    """Store a record in place of the older one of the same model, rig, workload and context.

    An error becomes a note.
    """
    records, notes = read()
    kept = [each for each in records.values() if key_of(each) != key_of(record)]
    kept = sorted(kept, key=lambda each: each.tuned_at)[-(_MOST_RECORDS - 1) :]
    try:
        json_store.write(path(), {key_of(each): each for each in (*kept, record)})
    except OSError as error:
        why = f"measurements cannot be stored in {path()}: {error.strerror or error}"
        return StoredPlan(False, (*notes, why))
    return StoredPlan(True, notes)


def key_of(record: TunedRecord) -> str:
    """The key of a record: the model's name, and a digest of all that it holds for."""
    rig = sorted((each.key, each.total_bytes, each.driver) for each in record.devices)
    parts = (record.content, rig, record.host, record.llama_cpp_python, record.wish, record.ctx)
    length = "" if record.ctx != "given" else f" {record.n_ctx}"
    return f"{record.model} {_digest(msgspec.json.encode(parts))[:16]}{length}"


def new_record(
    files: Iterable[FileIdentity], machine: Machine, workload: Workload, n_ctx: int, model: str
) -> TunedRecord:
    """An empty record of a model with these files, planned with `n_ctx` tokens of context."""
    files = tuple(files)
    return TunedRecord(
        model=model,
        path=files[0].path if files else "",
        content=content_of(files),
        devices=rig_of(machine),
        host=device_key(machine.host) or machine.host.name,
        llama_cpp_python=json_store.llama_cpp_version(),
        plan_version=PLAN_VERSION,
        wish=wish_of(workload),
        ctx=ctx_of(workload),
        n_ctx=n_ctx,
        choice=None,
        tokens_per_s=None,
        gain=None,
        margin=None,
        tuned_at=datetime.now(UTC).isoformat(timespec="seconds"),
        vram_llm=__version__,
        rows=(),
    )


def content_of(files: Iterable[FileIdentity]) -> str:
    """A digest of files by their sizes and headers, which are all that a plan uses; paths do not matter."""
    return _digest(msgspec.json.encode([(each.n_bytes, each.header_sha256) for each in files]))


def rig_of(machine: Machine) -> tuple[RigDevice, ...]:
    """The devices of a machine, as a record knows them."""
    return tuple(
        RigDevice(
            id=device.id,
            key=device_key(device) or device.id,
            total_bytes=device.total_bytes,
            driver=device.driver_version,
        )
        for device in machine.devices
    )


def wish_of(workload: Workload) -> str:
    """A digest of the options that change which plan is the fastest, without the context's length."""
    bare = replace(workload, n_ctx=None, largest_ctx=False, serving=Serving(), use_tuned=True)
    return _digest(msgspec.json.encode(bare))


def ctx_of(workload: Workload) -> str:
    """How the user asks for the context: "auto", "max" or "given"."""
    if workload.largest_ctx:
        return _LARGEST
    return _OPEN if workload.n_ctx is None else "given"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
