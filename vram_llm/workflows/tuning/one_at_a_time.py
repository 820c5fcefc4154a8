"""One `tune` at a time on this computer: two would measure each other."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vram_llm.errors import TuneRunning
from vram_llm.machine import json_store
from vram_llm.state_file import open_regular

_LONGEST_ID = 20  # bytes


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the lock of the data folder; a folder without room or rights has none. Raises TuneRunning."""
    path = json_store.folder() / "tune.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open_regular(path, os.O_RDWR | os.O_CREAT)
    except OSError:  # nothing is stored there, as a note will say
        yield
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(lock, _LONGEST_ID).decode("ascii", "replace").strip() or "unknown"
            raise TuneRunning(
                f"another `vram-llm tune` (process {who}) is measuring on this computer, and both would "
                "measure wrong speeds; wait until it has ended"
            ) from None
        with suppress(OSError):  # the disk is full
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(lock)
