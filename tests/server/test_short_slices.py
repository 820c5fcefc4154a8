"""The event loop's thread asks Linux for short time slices, and what it starts does not have them."""

import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from vram_llm.server.short_slices import SLICE_NS, short_slices

_NUMBERS = {"x86_64": 315, "aarch64": 275}  # of sched_getattr(2)
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in _NUMBERS or os.getpriority(os.PRIO_PROCESS, 0) < 0,
    reason="another system, or a process of a higher priority",
)


def slice_ns() -> int:
    """The length of the calling thread's slices; 0: the system does not tell."""
    attributes = ctypes.create_string_buffer(56)
    ctypes.CDLL(None).syscall(_NUMBERS[platform.machine()], 0, attributes, len(attributes), 0)
    runtime: int = struct.unpack_from("=Q", attributes, 24)[0]
    return runtime


def _in_a_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own, whose policy ends with it."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_slices_are_short_in_the_block_and_usual_in_what_it_starts() -> None:
    usual = slice_ns()
    if not usual:
        pytest.skip("Linux before 6.12 has no slices of threads")
    policy = (os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.getpriority(os.PRIO_PROCESS, 0))
    with short_slices():
        assert slice_ns() == SLICE_NS < usual
        assert policy == (
            os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK,
            os.getpriority(os.PRIO_PROCESS, 0),
        )
        with ThreadPoolExecutor(1) as started_meanwhile:
            assert started_meanwhile.submit(slice_ns).result() == usual
    assert slice_ns() == usual


def test_an_unknown_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vram_llm.server.short_slices._NUMBERS", {})
    usual = slice_ns()
    with short_slices():
        assert slice_ns() == usual


def test_a_thread_whose_policy_has_no_slices_keeps_it() -> None:
    found: list[int] = []

    def idle() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with short_slices():
            found.append(os.sched_getscheduler(0))

    _in_a_thread(idle)
    assert found == [os.SCHED_IDLE]
