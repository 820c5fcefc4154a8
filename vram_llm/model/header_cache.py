"""A cache on this machine of headers read from servers: one file per address, valid for one version of it.

An entry is a line of JSON and the header's bytes. Each use asks the server whether its file still has that
version. A damaged entry is ignored.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec
import platformdirs

from vram_llm.model.http_client import FileBytes, FileVersion
from vram_llm.units import MIB

CACHE_DIR_VARIABLE = "VRAM_LLM_CACHE_DIR"
MAX_BYTES = 512 * MIB  # of all entries; the oldest are deleted first


class _Line(msgspec.Struct):
    tag: str
    n_bytes: int  # of the whole file on the server
    sha256: str  # of version and header


def load(url: str) -> FileBytes | None:
    """The cached header for `url`, or None."""
    try:
        line, _, data = _entry(url).read_bytes().partition(b"\n")
        kept = msgspec.json.decode(line, type=_Line)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None
    header = FileBytes(data, FileVersion(kept.tag, kept.n_bytes))
    return header if _digest(header) == kept.sha256 else None


def save(url: str, header: FileBytes) -> None:
    """Cache a header in place of the old entry for `url`. Does nothing if the cache cannot be written."""
    version = header.version
    if not version.tag:
        return
    line = _Line(version.tag, version.n_bytes, _digest(header))
    path = _entry(url)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".new")
        try:
            with open(descriptor, "wb") as stream:
                stream.write(msgspec.json.encode(line) + b"\n" + header.data)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
        _make_room(path)


def _entry(url: str) -> Path:
    """The path of `url`'s entry. It holds a hash of the address, which may contain a password."""
    base = os.environ.get(CACHE_DIR_VARIABLE) or platformdirs.user_cache_dir("vram-llm")
    return Path(base) / "headers" / f"{hashlib.sha256(url.encode()).hexdigest()}.header"


def _digest(header: FileBytes) -> str:
    return hashlib.sha256(f"{header.version}\n".encode() + header.data).hexdigest()


def _make_room(newest: Path) -> None:
    entries = [(path.stat(), path) for path in newest.parent.iterdir() if path != newest]
    room = MAX_BYTES - newest.stat().st_size
    for stat, path in sorted(entries, key=lambda entry: entry[0].st_mtime, reverse=True):
        room -= stat.st_size
        if room < 0:
            path.unlink(missing_ok=True)
