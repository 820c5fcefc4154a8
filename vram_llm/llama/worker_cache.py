"""The folder in which a worker keeps weights, so that the next load need not send them.

llama.cpp's RPC server fills it (rpc_server::set_tensor of ggml-rpc.cpp): weights of more than 10 MiB, each in
a file that is named by its 64-bit FNV-1a hash. A client sends the hash first, and the weights only if the
worker has no such file. llama.cpp neither bounds the folder nor checks that a file is whole: it would load
the beginning of a tensor without an error. So this module deletes files over the bound, and files that a
killed worker or a full disk left short. A whole file is on the disk and read-only. Each worker has a folder
of its own, since two of them would write the same file at once.
"""

import contextlib
import fcntl
import os
import queue
import re
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vram_llm.errors import PortInUse
from vram_llm.units import MIB, format_bytes

LEAST_WEIGHT_BYTES = 10 * MIB  # HASH_THRESHOLD of ggml-rpc.cpp
_NAME = re.compile(r"[0-9a-f]{16}")
_WHOLE = 0o400
_PROBE_BYTES = MIB
_IN_USE_S = 3600.0  # a load over a slow link may take that long


@dataclass(frozen=True, slots=True)
class CachedTensor:
    """A file of the cache; `used_s` is the time of its last use."""

    name: str
    n_bytes: int
    used_s: float


def surplus(files: Iterable[CachedTensor], newest: CachedTensor, limit_bytes: int, now_s: float) -> list[str]:
    """Names of the files to delete, so that those left and `newest` take at most `limit_bytes`.

    Files that nobody has used for an hour go first, the longest unused before the others. If that is not
    enough, `newest` is not kept: a load that is larger than the bound would else delete its own beginning,
    and find nothing the next time.
    """
    files = [file for file in files if file.name != newest.name]
    over_bytes = sum(file.n_bytes for file in files) + newest.n_bytes - limit_bytes
    deleted = []
    for file in sorted(files, key=lambda file: file.used_s):
        if over_bytes <= 0 or now_s - file.used_s < _IN_USE_S:
            break
        deleted.append(file.name)
        over_bytes -= file.n_bytes
    return [newest.name] if over_bytes > 0 else deleted


class WorkerCache:
    """The cache of one worker. `saved` is called when llama.cpp has written a file."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Open the folder and delete files that are not whole. Raises PortInUse, OSError."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self.n_not_kept = 0  # tensors that had no room
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise PortInUse(f"another worker keeps its weights in {folder}; end it first") from None
        self._sizes: dict[str, int] = {}
        self._written: queue.SimpleQueue[str] = queue.SimpleQueue()
        for path, facts in self._found():
            if stat.S_IMODE(facts.st_mode) == _WHOLE:
                self._sizes[path.name] = facts.st_size
            else:
                path.unlink()
        self._shrink()
        threading.Thread(target=self._settle, name="worker cache", daemon=True).start()

    @property
    def n_bytes(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    def saved(self, path: Path) -> str | None:
        """Keep or delete the file that was just written. Returns a message for the first without room."""
        name = path.name
        if not _NAME.fullmatch(name) or path.parent != self.folder:
            return None
        size = path.stat().st_size
        if not self._has_room():
            return self._drop(name, "the disk is full")
        if self.n_bytes + size > self.limit_bytes:
            now = time.time()
            newest = CachedTensor(name, size, now)
            gone = surplus(self._tensors(), newest, self.limit_bytes, now)
            if name in gone:
                return self._drop(name, f"its bound of {format_bytes(self.limit_bytes)} is reached")
            for other in gone:
                self._delete(other)
        self._sizes[name] = size
        self._written.put(name)
        return None

    def _drop(self, name: str, reason: str) -> str | None:
        self._delete(name)
        self.n_not_kept += 1
        if self.n_not_kept > 1:
            return None
        return (
            f"the cache in {self.folder} keeps no more weights, since {reason}; the next load sends the "
            "others again. --cache-size sets the bound"
        )

    def _shrink(self) -> None:
        """Delete the files used longest ago until the rest is within the bound."""
        for file in sorted(self._tensors(), key=lambda file: file.used_s):
            if self.n_bytes <= self.limit_bytes:
                break
            self._delete(file.name)

    def _delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        self._sizes.pop(name, None)

    def _found(self) -> list[tuple[Path, os.stat_result]]:
        found = ((path, path.lstat()) for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        return [(path, facts) for path, facts in found if stat.S_ISREG(facts.st_mode)]

    def _tensors(self) -> list[CachedTensor]:
        """All files. With "relatime" a second read leaves no trace, unless the first is made the change."""
        tensors = []
        for path, facts in self._found():
            if path.name in self._sizes:
                if facts.st_atime > facts.st_mtime:
                    os.utime(path, (facts.st_atime, facts.st_atime))
                used_s = max(facts.st_atime, facts.st_mtime)
                tensors.append(CachedTensor(path.name, facts.st_size, used_s))
        return tensors

    def _has_room(self) -> bool:
        """Whether disk and quota have room left: else the last file may be short."""
        probe = self.folder / "probe"
        try:
            with open(probe, "wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, _PROBE_BYTES)
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)
        return True

    def _settle(self) -> None:
        """Mark files as whole, once they are on the disk."""
        while True:
            path = self.folder / self._written.get()
            with contextlib.suppress(OSError), open(path, "rb") as stream:
                os.fsync(stream.fileno())
                os.fchmod(stream.fileno(), _WHOLE)
