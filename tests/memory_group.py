"""A cgroup that limits the memory of the processes in it: version 1's memory controller, or version 2."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """The folder of a cgroup."""

    folder: Path

    @property
    def is_first_version(self) -> bool:
        """Whether its files are those of version 1."""
        return (self.folder / "memory.limit_in_bytes").exists()

    @property
    def processes(self) -> list[int]:
        """The numbers of its processes."""
        return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]

    def command(self, *words: str | int | Path) -> list[str]:
        """The command line that runs `words` in the group."""
        return ["sh", "-c", 'echo $$ > "$0"; exec "$@"', f"{self.folder}/cgroup.procs", *map(str, words)]

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that was used, page cache included; None if the kernel does not tell."""
        name = "memory.max_usage_in_bytes" if self.is_first_version else "memory.peak"
        try:
            return int((self.folder / name).read_text())
        except OSError:
            return None

    @property
    def kills(self) -> int:
        """Processes that the kernel has killed for lack of memory."""
        name = "memory.oom_control" if self.is_first_version else "memory.events"
        lines = (line.split() for line in (self.folder / name).read_text().splitlines())
        return next(int(words[1]) for words in lines if words[0] == "oom_kill")


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """A new group of `limit_bytes`, without swap. Raises OSError if this process may not make one."""
    parent = _CGROUPS / "memory" if (_CGROUPS / "memory" / "tasks").exists() else _CGROUPS
    group = MemoryGroup(parent / f"vram-llm-{os.getpid()}-{time.monotonic_ns()}")
    group.folder.mkdir()
    try:
        limit = "memory.limit_in_bytes" if group.is_first_version else "memory.max"
        (group.folder / limit).write_text(str(limit_bytes))
        yield group
    finally:
        _remove(group.folder)


def drop_from_cache(files: Sequence[Path]) -> None:
    """Take files out of the page cache, as far as no process has them mapped."""
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            folder.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)  # the kernel still removes its ended processes
