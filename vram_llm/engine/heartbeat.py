"""Signs of life of the engine: counts in a page of memory that its process shares with the server's.

The server reads them without the engine's help, so also while the engine is stopped or inside a step.
"""

import mmap
import os
import tempfile
from typing import NamedTuple


class Pulse(NamedTuple):
    """A look at an engine: `n_beats` and `work` only grow while it lives.

    `n_rows` is the size of the batch that llama.cpp computes; 0: the engine is between steps. `work` adds up
    hundredths of a second on a processor and pages read from disk.
    """

    n_beats: int
    n_rows: int
    work: int


class Heartbeat:
    """The page. The server makes it and passes `fd` to the engine's process, which gives it here."""

    def __init__(self, fd: int | None = None) -> None:
        """Raises OSError."""
        self.fd = _new_file() if fd is None else fd
        self._page = mmap.mmap(self.fd, mmap.PAGESIZE)
        self._counts = memoryview(self._page).cast("Q")

    def beat(self) -> None:
        """The engine is between two steps, or loads."""
        self._counts[0] += 1
        self._counts[1] = 0

    def note_batch(self, n_rows: int) -> None:
        """The engine gives llama.cpp a batch of `n_rows` tokens."""
        self._counts[0] += 1
        self._counts[1] = n_rows

    def pulse(self, pid: int) -> Pulse:
        """A look at the process that was given the page."""
        return Pulse(self._counts[0], self._counts[1], _work(pid))

    def close(self) -> None:
        """Free the page."""
        self._counts.release()
        self._page.close()
        os.close(self.fd)


def _new_file() -> int:
    """A page-long file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("vram-llm-heartbeat")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, mmap.PAGESIZE)
    return fd


def _work(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # no Linux, the process has ended, or no descriptor is left
        import psutil

        try:
            times = psutil.Process(pid).cpu_times()
        except (psutil.Error, OSError):
            return 0
        return round(100 * (times.user + times.system))
    return int(fields[9]) + int(fields[11]) + int(fields[12])  # majflt, utime, stime of proc_pid_stat(5)
