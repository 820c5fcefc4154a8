"""The event loop's thread asks Linux for short turns, and what it starts does not have them."""

import ctypes
import os
import platform
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from vram_llm.server.short_turns import TURN_NS, short_turns

_NUMBERS = {"x86_64": 315, "aarch64": 275}  # of sched_getattr(2)


def turn_ns() -> int:
    """The length of the calling thread's turns; 0: the system does not tell."""
    attributes = ctypes.create_string_buffer(56)
    ctypes.CDLL(None).syscall(_NUMBERS[platform.machine()], 0, attributes, len(attributes), 0)
    runtime: int = struct.unpack_from("=Q", attributes, 24)[0]
    return runtime


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in _NUMBERS or os.getpriority(os.PRIO_PROCESS, 0) < 0,
    reason="another system, or a process of a higher priority",
)
def test_turns_are_short_in_the_block_and_usual_in_what_it_starts() -> None:
    usual = turn_ns()
    if not usual:
        pytest.skip("Linux before 6.12")
    with short_turns():
        assert turn_ns() == TURN_NS < usual
        with ThreadPoolExecutor(1) as started_meanwhile:
            assert started_meanwhile.submit(turn_ns).result() == usual
    assert turn_ns() == usual
