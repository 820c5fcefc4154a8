"""Short time slices for the event loop, so that it runs at once when it wakes beside llama.cpp's threads.

These compute without a pause. A thread that has just woken waits until the time slice of one of them ends:
some milliseconds. A thread with a shorter slice goes first (EEVDF, PREEMPT_SHORT in kernel/sched/fair.c;
before Linux 6.12 asking changes nothing). Its share of the processor stays the same.
"""

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SLICE_NS = 100_000  # the shortest that Linux grants
_USUAL = 0
_NUMBERS = {"x86_64": 314, "aarch64": 274}  # of the system call sched_setattr(2), by machine
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
_RESET_ON_FORK = 1  # processes and threads that it starts have slices of the usual length


@contextmanager
def short_slices() -> Iterator[None]:
    """Give the calling thread short time slices until the block ends, where the system has them.

    A process with a negative nice value stays as it is: its children would lose that value.
    """
    is_usual = sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER
    if not is_usual or os.getpriority(os.PRIO_PROCESS, 0) < 0:
        yield
        return
    _set_slice(SLICE_NS)
    try:
        yield
    finally:
        _set_slice(_USUAL)


def _set_slice(length_ns: int) -> None:
    """Ask for slices of this length; a system that has none refuses, and nothing changes."""
    if (number := _NUMBERS.get(platform.machine())) is None:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = (_ATTRIBUTES.size, os.SCHED_OTHER, _RESET_ON_FORK, nice, 0, length_ns, 0, 0)
    ctypes.CDLL(None).syscall(number, 0, _ATTRIBUTES.pack(*wanted), 0)
