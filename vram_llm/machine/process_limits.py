"""The limits that the system sets to this process: cgroups and `ulimit`."""

from dataclasses import dataclass
from pathlib import Path

from vram_llm.machine.host import cpu_limits, lockable_bytes, memory_limits

_UNLIMITED = 2**60  # cgroups of version 1 say "no limit" with a number that is larger


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLimits:
    """Limits of this process; None: there is none."""

    cgroup_memory_bytes: int | None  # of the tightest cgroup
    cgroup_free_bytes: int | None  # below the limit with the least room
    cgroup_cores: int | None
    address_space_bytes: int | None  # ulimit -v
    locked_bytes: int | None  # ulimit -l
    open_files: int | None  # ulimit -n; the hard limit, to which `serve` raises the soft one
    processes: int | None  # ulimit -u


def process_limits(root: Path) -> ProcessLimits:
    """The limits of this process, whose cgroups' files are below `root`."""
    import resource

    cgroups = [(limit, free) for limit, free in memory_limits(root) if limit < _UNLIMITED]
    cores = cpu_limits(root)
    return ProcessLimits(
        cgroup_memory_bytes=min((limit for limit, _ in cgroups), default=None),
        cgroup_free_bytes=min((free for _, free in cgroups), default=None),
        cgroup_cores=min(cores, default=None),
        address_space_bytes=_limit(resource.RLIMIT_AS),
        locked_bytes=lockable_bytes(root),
        open_files=_limit(resource.RLIMIT_NOFILE, hard=True),
        processes=_limit(resource.RLIMIT_NPROC),
    )


def _limit(kind: int, *, hard: bool = False) -> int | None:
    import resource

    limit = resource.getrlimit(kind)[hard]
    return None if limit == resource.RLIM_INFINITY else limit
