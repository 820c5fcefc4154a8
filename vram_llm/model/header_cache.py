"""A cache on this machine of headers read from servers: one file per address, valid for one version of it.

An entry is a line of JSON and the header's bytes. Each use asks the server whether its file still has that
version. An entry that cannot be used is ignored with a warning.
"""

import hashlib
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec
import platformdirs

from vram_llm.model.http_client import FileBytes, FileVersion
from vram_llm.state_file import read_state, write_state
from vram_llm.units import MIB

log = logging.getLogger(__name__)

CACHE_DIR_VARIABLE = "VRAM_LLM_CACHE_DIR"
MAX_BYTES = 512 * MIB  # of all entries; the oldest are deleted first
_MAX_ENTRY_BYTES = 257 * MIB  # header_file.MAX_HEADER_BYTES, and the line


class _Line(msgspec.Struct):
    tag: str
    n_bytes: int  # of the whole file on the server
    sha256: str  # of version and header


def load(url: str) -> FileBytes | None:
    """The cached header for `url`, or None."""
    path = _entry(url)
    try:
        line, _, data = read_state(path, _MAX_ENTRY_BYTES).partition(b"\n")
        kept = msgspec.json.decode(line, type=_Line)
        header = FileBytes(data, FileVersion(kept.tag, kept.n_bytes))
        if _digest(header) == kept.sha256:
            return header
        why = "it is damaged"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or "there is too little memory for it"
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        why = "it is damaged"
    log.warning("the cached header in %s is not used: %s", path, why)
    return None


def save(url: str, header: FileBytes) -> None:
    """Cache a header in place of the old entry for `url`. Does nothing if the cache cannot be written."""
    version = header.version
    if not version.tag:
        return
    line = _Line(version.tag, version.n_bytes, _digest(header))
    path = _entry(url)
    with suppress(OSError):
        write_state(path, msgspec.json.encode(line) + b"\n" + header.data)
        _make_room(path)


def cache_folder() -> Path:
    """The folder of all caches of this program."""
    return Path(os.environ.get(CACHE_DIR_VARIABLE) or platformdirs.user_cache_dir("vram-llm"))


def _entry(url: str) -> Path:
    """The path of `url`'s entry. It holds a hash of the address, which may contain a password."""
    return cache_folder() / "headers" / f"{hashlib.sha256(url.encode()).hexdigest()}.header"


def _digest(header: FileBytes) -> str:
    return hashlib.sha256(f"{header.version}\n".encode() + header.data).hexdigest()


def _make_room(newest: Path) -> None:
    found = [(path.lstat(), path) for path in newest.parent.iterdir() if path != newest]
    entries = [(facts, path) for facts, path in found if stat.S_ISREG(facts.st_mode)]
    room = MAX_BYTES - newest.stat().st_size
    for facts, path in sorted(entries, key=lambda entry: entry[0].st_mtime, reverse=True):
        room -= facts.st_size
        if room < 0:
            path.unlink(missing_ok=True)
