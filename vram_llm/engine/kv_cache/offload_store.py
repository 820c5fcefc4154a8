"""States of sequences outside llama.cpp's memory: in the host's RAM, then on disk, each within a bound.

The least recently used state is moved first: from RAM to disk, and from disk it is deleted.
"""

import logging
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

State = npt.NDArray[np.uint8]


@dataclass(slots=True)
class OffloadStore:
    """Keeps states under keys that it makes, at most `ram_bytes` and `disk_bytes` of them; 0 keeps none.

    Files have no name, so the system deletes them when the process ends for any reason.
    """

    ram_bytes: int
    disk_bytes: int = 0
    folder: str | None = None  # None: the system's folder for temporary files
    ram_used_bytes: int = 0
    disk_used_bytes: int = 0
    _ram: "OrderedDict[int, State]" = field(default_factory=OrderedDict)
    _disk: "OrderedDict[int, tuple[int, IO[bytes]]]" = field(default_factory=OrderedDict)
    _n_keys: int = 0
    _warned: bool = False

    def __contains__(self, key: int) -> bool:
        return key in self._ram or key in self._disk

    def would_keep(self, n_bytes: int) -> bool:
        """Whether a state of that size fits within one of the bounds."""
        return n_bytes <= max(self.ram_bytes, self.disk_bytes)

    def limit_ram(self, n_bytes: int) -> None:
        """Set another bound of RAM; states beyond it are moved or deleted, the least recently used first."""
        self.ram_bytes = n_bytes
        self._shrink()

    def put(self, state: State) -> int:
        """Keep a state and return its key. Later states may displace it."""
        self._n_keys += 1
        self._ram[self._n_keys] = state
        self.ram_used_bytes += state.nbytes
        self._shrink()
        return self._n_keys

    def get(self, key: int) -> State | None:
        """The state under `key`, now the most recently used; None if it was displaced."""
        if key in self._ram:
            self._ram.move_to_end(key)
            return self._ram[key]
        if key not in self._disk:
            return None
        n_bytes, file = self._disk[key]
        self._disk.move_to_end(key)
        try:
            file.seek(0)
            state = np.frombuffer(file.read(n_bytes), np.uint8)
        except OSError:  # a fault of the disk
            state = np.empty(0, np.uint8)
        if state.nbytes == n_bytes:
            return state
        self.drop(key)
        return None

    def drop(self, key: int) -> None:
        """Delete a state. An unknown key is no error."""
        if key in self._ram:
            self.ram_used_bytes -= self._ram.pop(key).nbytes
        elif key in self._disk:
            n_bytes, file = self._disk.pop(key)
            file.close()
            self.disk_used_bytes -= n_bytes

    def close(self) -> None:
        """Delete all states."""
        for key in (*self._ram, *self._disk):
            self.drop(key)

    def _shrink(self) -> None:
        while self.ram_used_bytes > self.ram_bytes:
            key, state = self._ram.popitem(last=False)
            self.ram_used_bytes -= state.nbytes
            if state.nbytes <= self.disk_bytes:
                self._write(key, state)
        while self.disk_used_bytes > self.disk_bytes:
            self.drop(next(iter(self._disk)))

    def _warn(self, error: OSError) -> None:
        """Log the first error of writing: states are then deleted as if the disk were full."""
        if not self._warned:
            self._warned = True
            log.warning("states of idle conversations cannot be written to the disk: %s", error)

    def _write(self, key: int, state: State) -> None:
        try:
            file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - closed by drop
        except OSError as error:  # no such folder
            self._warn(error)
            return
        try:
            file.write(state.data)
            file.flush()
        except OSError as error:  # a full disk
            self._warn(error)
            file.close()
            return
        self._disk[key] = (state.nbytes, file)
        self.disk_used_bytes += state.nbytes
