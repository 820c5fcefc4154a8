"""Slots in files: the tokens of a prompt, its state in llama.cpp's memory, and all that the state depends on.

A file is eight bytes that name its kind, the version of the format and the length of the facts (uint32 and
uint64, little-endian), the facts as JSON (SavedSlot), and the state as llama_state_seq_get_data gives it.
Tokens may have more than 64 bits: rows of images have hashes.
"""

import errno
import json
import os
import shutil
import struct
from dataclasses import asdict, dataclass, replace
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from vram_llm.engine.kv_cache.offload_store import State
from vram_llm.errors import RequestError, VramLLMError
from vram_llm.state_file import open_regular, write_state
from vram_llm.units import GIB, format_bytes

FORMAT = 1
_MAGIC = b"vramslot"
_LLAMA_SERVERS = b"qsgg"  # LLAMA_STATE_SEQ_MAGIC of llama.h
_HEAD = struct.Struct("<8sIQ")
_MOST_FACTS_BYTES = 1 << 28
_KEPT_FREE_BYTES = GIB  # on the disk, so that clients cannot fill it; or a twentieth of it, if that is less


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotFacts:
    """Facts on which a state depends. `adapters` are hashes and scales of those that computed it.

    `projector` is the hash of the multimodal projector; of a state without images it is "".
    """

    library: str  # llama-cpp-python's version: states of others may be laid out in another way
    model: str  # its name, for messages
    model_digest: str
    kv_types: tuple[str, str]
    n_caches: int
    swa_full: bool
    adapters: tuple[tuple[str, float], ...]
    projector: str
    changes: str = ""  # a digest of scaled positions, changed metadata and control vectors; "": none

    def mismatch(self, here: "SlotFacts") -> str | None:
        """Why a state with these facts is of no use where the facts are `here`; None if it is."""
        if self.model_digest != here.model_digest:
            same = f"another file of {self.model}" if self.model == here.model else self.model
            return f"it was saved from {same}, and this server has {here.model}"
        if self.changes != here.changes:
            return (
                "it was saved with other positions, metadata or control vectors; serve with the same "
                "--rope-..., --yarn-..., --override-kv and --control-vector"
            )
        if self.library != here.library:
            return (
                f"it was saved by llama-cpp-python {self.library}, whose states may be laid out in another "
                f"way than those of {here.library}"
            )
        if self.kv_types != here.kv_types:
            return (
                f"its KV cache is {'/'.join(self.kv_types)}, and this server's is {'/'.join(here.kv_types)}"
            )
        if self.projector not in ("", here.projector):
            return (
                "it has images, and this server has not the projector that computed them; give its --mmproj"
            )
        if (self.n_caches, self.swa_full) != (here.n_caches, here.swa_full):
            return (
                "its KV cache is arranged in another way; serve with the same --kv-unified, --swa-full and "
                "--parallel"
            )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSlot:
    """A saved slot without its state. `owner` is the name of an API key, "" if all clients share it."""

    facts: SlotFacts
    owner: str
    tokens: list[int]
    n_state_bytes: int = 0
    state_crc32: int = 0


def write_slot(path: Path, slot: SavedSlot, state: State) -> int:
    """Replace the file by this slot and `state`; the bytes written. Raises RequestError, VramLLMError.

    A file that would leave the disk nearly full is not written.
    """
    _check_replaceable(path, slot.owner)
    slot = replace(slot, n_state_bytes=state.nbytes, state_crc32=crc32(state.data))
    facts = json.dumps(asdict(slot)).encode()
    n_bytes = _HEAD.size + len(facts) + state.nbytes
    try:
        _check_room(path, n_bytes)
        write_state(path, _HEAD.pack(_MAGIC, FORMAT, len(facts)), facts, state.data, durable=True)
    except OSError as error:
        why = (
            "the disk is full"
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else error.strerror or str(error)
        )
        raise VramLLMError(f"the slot could not be saved as '{path.name}': {why}") from None
    return n_bytes


def _check_room(path: Path, n_bytes: int) -> None:
    """Raises VramLLMError if a file of `n_bytes` leaves too little of the disk free, and OSError."""
    disk = shutil.disk_usage(path.parent)
    kept_free = min(_KEPT_FREE_BYTES, disk.total // 20)
    if disk.free - n_bytes < kept_free:
        raise VramLLMError(
            f"the slot could not be saved as '{path.name}': it takes {format_bytes(n_bytes)}, the disk has "
            f"{format_bytes(disk.free)} free, and {format_bytes(kept_free)} are kept free; delete saved slots"
        )


def read_slot(path: Path, owner: str) -> tuple[SavedSlot, State, int]:
    """The slot in a file, its state, and the file's bytes. Raises RequestError for a missing or bad file."""
    try:
        with _opened(path) as stream:
            slot = _facts(path, stream)
            _check_owner(path, slot, owner)
            n_bytes = os.fstat(stream.fileno()).st_size
            n_left = n_bytes - stream.tell()
            if n_left != slot.n_state_bytes:
                raise _damaged(path, f"it has {n_left:,} bytes of a state of {slot.n_state_bytes:,}")
            state = np.empty(slot.n_state_bytes, np.uint8)
            n_read = stream.readinto(state.data)
    except FileNotFoundError:
        raise RequestError(f"there is no file '{path.name}' among the saved slots", "filename") from None
    except OSError as error:
        raise RequestError(f"'{path.name}' cannot be read: {error.strerror or error}", "filename") from None
    if n_read != slot.n_state_bytes or crc32(state.data) != slot.state_crc32:
        raise _damaged(path, "its bytes are not those that were saved")
    return slot, state, n_bytes


def _opened(path: Path) -> BufferedReader:
    return BufferedReader(FileIO(open_regular(path, os.O_RDONLY)))


def _facts(path: Path, stream: BufferedReader) -> SavedSlot:
    """The part of a file before the state. Raises RequestError."""
    head = stream.read(_HEAD.size)
    if head.startswith(_LLAMA_SERVERS):
        raise RequestError(f"'{path.name}' was saved by llama-server; save the slot again", "filename")
    if len(head) < _HEAD.size or head[:8] != _MAGIC:
        raise _foreign(path)
    _, version, n_bytes = _HEAD.unpack(head)
    if version != FORMAT:
        raise RequestError(
            f"'{path.name}' has version {version} of the format, and this program reads {FORMAT}", "filename"
        )
    facts = stream.read(n_bytes) if n_bytes <= _MOST_FACTS_BYTES else b""
    try:
        return _slot_of(json.loads(facts))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _damaged(path, "its first part is not complete") from None


def _slot_of(values: dict[str, Any]) -> SavedSlot:
    facts = values.pop("facts")
    kv_types, adapters = tuple(facts.pop("kv_types")), tuple(map(tuple, facts.pop("adapters")))
    return SavedSlot(facts=SlotFacts(**facts, kv_types=kv_types, adapters=adapters), **values)


def _check_replaceable(path: Path, owner: str) -> None:
    """Raises RequestError for another owner's slot, and a file without a slot. llama-server's may go."""
    try:
        with _opened(path) as stream:
            head = stream.read(len(_MAGIC))
            if head.startswith(_LLAMA_SERVERS):
                return
            if head != _MAGIC:
                raise _foreign(path)
            stream.seek(0)
            try:
                slot = _facts(path, stream)
            except RequestError:  # damaged, or of another version
                return
            _check_owner(path, slot, owner)
    except FileNotFoundError:
        return
    except OSError as error:
        raise RequestError(
            f"'{path.name}' cannot be replaced: {error.strerror or error}", "filename"
        ) from None


def _check_owner(path: Path, slot: SavedSlot, owner: str) -> None:
    if slot.owner != owner:
        raise RequestError(f"'{path.name}' was saved with another API key", "filename")


def _foreign(path: Path) -> RequestError:
    return RequestError(f"'{path.name}' is not a saved slot of this program; choose another name", "filename")


def _damaged(path: Path, why: str) -> RequestError:
    return RequestError(f"'{path.name}' is damaged: {why}; save the slot again", "filename")
