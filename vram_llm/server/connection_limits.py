"""Limits of one connection, and of all together: sizes and times of HTTP itself."""

import contextlib
import resource
from dataclasses import dataclass

_WANTED_FILES = 65_536
_KEPT_FILES = 256  # for the engine's restart, model files, templates' processes and log files


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of HTTP connections. Each default lives here."""

    max_connections: int = 768
    head_bytes: int = 1 << 16  # request line and headers
    head_s: float = 30.0  # from a head's first byte to its last
    check_s: float = 15.0  # between two looks at a body
    body_bytes_per_s: int = 512  # the slowest body
    unread_s: float = 120.0  # while a client reads nothing of an answer


def raised_limits() -> ConnectionLimits:
    """Limits for as many connections as this process may have files, after raising its soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    wanted = _WANTED_FILES if hard == infinite else min(hard, _WANTED_FILES)
    if soft != infinite and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_files = _WANTED_FILES if soft == infinite else min(soft, _WANTED_FILES)
    return ConnectionLimits(max_connections=max(n_files - _KEPT_FILES, n_files // 2))
