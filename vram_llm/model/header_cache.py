"""Headers read from servers, kept on this machine: one file per address, good for one version of it.

An entry is a line of JSON and the header's bytes. The server is asked each time whether its file still is of
that version; an entry that is damaged is as good as none.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec
import platformdirs

from vram_llm.model.web import Part, Version
from vram_llm.units import MIB

CACHE_DIR_VARIABLE = "VRAM_LLM_CACHE_DIR"
MAX_BYTES = 512 * MIB  # of all entries; the oldest go first


class _Line(msgspec.Struct):
    tag: str
    n_bytes: int  # of the whole file on the server
    sha256: str  # of all that is kept


def load(url: str) -> Part | None:
    """The header kept for `url`, or None."""
    try:
        line, _, data = _entry(url).read_bytes().partition(b"\n")
        kept = msgspec.json.decode(line, type=_Line)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None
    header = Part(data, Version(kept.tag, kept.n_bytes))
    return header if _digest(header) == kept.sha256 else None


def save(url: str, header: Part) -> None:
    """Keep a header, in place of what was kept for `url`. A cache that cannot be written to is none."""
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
    """Where `url`'s entry is. Addresses may hold passwords, so they are not written down."""
    base = os.environ.get(CACHE_DIR_VARIABLE) or platformdirs.user_cache_dir("vram-llm")
    return Path(base) / "headers" / f"{hashlib.sha256(url.encode()).hexdigest()}.header"


def _digest(header: Part) -> str:
    return hashlib.sha256(f"{header.version}\n".encode() + header.data).hexdigest()


def _make_room(newest: Path) -> None:
    entries = [(each.stat(), each) for each in newest.parent.iterdir() if each != newest]
    room = MAX_BYTES - newest.stat().st_size
    for stat, each in sorted(entries, key=lambda entry: entry[0].st_mtime, reverse=True):
        room -= stat.st_size
        if room < 0:
            each.unlink(missing_ok=True)
