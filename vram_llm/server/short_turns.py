"""Short turns on the processor for the event loop, so that it is woken at once beside threads that compute.

Linux lets a thread that computes go on for some milliseconds before one that has just woken gets its turn: as
long as a small model takes for a token. A thread that has asked for short turns comes first (EEVDF, since
Linux 6.12; before, asking changes nothing), and gets no larger share of the processor for it.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TURN_NS = 100_000  # the shortest that Linux grants
_USUAL = 0
_NUMBERS = {"x86_64": 314, "aarch64": 274}  # of the system call sched_setattr(2), by machine
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
_RESET_ON_FORK = 1  # processes and threads that it starts have turns of the usual length


@contextmanager
def short_turns() -> Iterator[None]:
    """Short turns of the calling thread until the block ends, where the system has them.

    A process with a negative nice value stays as it is: its children would lose that value.
    """
    is_usual = sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER
    if not is_usual or os.getpriority(os.PRIO_PROCESS, 0) < 0:
        yield
        return
    _set_turn(TURN_NS)
    try:
        yield
    finally:
        _set_turn(_USUAL)


def _set_turn(length_ns: int) -> None:
    """Ask for turns of this length; a system that has none refuses, and nothing changes."""
    if (number := _NUMBERS.get(platform.machine())) is None:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = (_ATTRIBUTES.size, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, length_ns, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, _ATTRIBUTES.pack(*wanted), 0)
