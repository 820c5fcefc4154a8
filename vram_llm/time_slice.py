"""Short time slices for the server, so that it runs at once when it wakes beside llama.cpp's threads.

These compute without a pause. A program that wakes on their processor, as the server does to pass a token
on, waits for the end of their time slice, which Linux notices at its next tick: up to 4 ms later at 250 Hz.
But a program with a shorter slice goes first (PREEMPT_SHORT in kernel/sched/fair.c). Since Linux 6.12 each
thread may ask for slices of 0.1 to 100 ms (sched_setattr(2), `sched_runtime`); its share of the processor
stays the same.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

SHORTEST_NS = 100_000
_USUAL = 0
_SYSTEM_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}  # sched_setattr, sched_getattr
_FAIR = (0, 3)  # SCHED_OTHER, SCHED_BATCH: the policies with slices


class _Attributes(ctypes.Structure):
    """sched_attr of linux/sched/types.h, version 0."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("slice_ns", ctypes.c_uint64),  # sched_runtime
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    ]


@contextlib.contextmanager
def short_slices() -> Iterator[None]:
    """Let this thread have the shortest slices in the block, and those that it starts there for ever.

    Systems without slices ignore it.
    """
    _set_slices(SHORTEST_NS)
    try:
        yield
    finally:
        _set_slices(_USUAL)


def use_usual_slices() -> None:
    """Let this thread, and those that it starts later, have the system's slices whatever its parent has."""
    _set_slices(_USUAL)


def slice_ns() -> int | None:
    """The length of this thread's slices in nanoseconds; None if it has none or the system does not say."""
    attributes = _read()
    return None if attributes is None else int(attributes.slice_ns) or None


def _set_slices(length_ns: int) -> None:
    attributes = _read()
    if attributes is not None:
        attributes.slice_ns = length_ns
        _call(0, ctypes.byref(attributes), 0)


def _read() -> _Attributes | None:
    """The attributes of this thread; None if it has no slices."""
    attributes = _Attributes()
    is_read = _call(1, ctypes.byref(attributes), ctypes.sizeof(_Attributes), 0)
    return attributes if is_read and attributes.policy in _FAIR else None


def _call(which: int, *arguments: object) -> bool:
    """Make one of _SYSTEM_CALLS for this thread; False if it fails or is not known on this machine."""
    numbers = _SYSTEM_CALLS.get(os.uname().machine) if sys.platform == "linux" else None
    return numbers is not None and ctypes.CDLL(None).syscall(numbers[which], 0, *arguments) == 0
