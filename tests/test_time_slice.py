"""The server asks Linux for short time slices, and the engine for the usual ones."""

import os
import sys
import threading
from collections.abc import Callable

import pytest

from vram_llm.time_slice import SHORTEST_NS, short_slices, slice_ns, use_usual_slices


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


has_slices = pytest.mark.skipif(
    sys.platform != "linux" or _version() < (6, 12),
    reason="threads have slices of their own since Linux 6.12",
)


def _in_a_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own, whose slices end with it."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@has_slices
def test_a_thread_has_short_slices_within_the_block_alone() -> None:
    slices: list[int | None] = []
    policies: list[tuple[int, int]] = []

    def look() -> None:
        slices.append(slice_ns())
        policies.append((os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)))

    def ask() -> None:
        look()
        with short_slices():
            look()
        look()

    _in_a_thread(ask)
    usual = slices[0]
    assert usual is not None
    assert usual > SHORTEST_NS
    assert slices == [usual, SHORTEST_NS, usual]
    assert len(set(policies)) == 1


@has_slices
def test_a_thread_started_with_short_slices_may_have_the_usual_ones() -> None:
    slices: list[int | None] = [slice_ns()]

    def engine() -> None:
        slices.append(slice_ns())
        use_usual_slices()
        slices.append(slice_ns())

    def server() -> None:
        with short_slices():
            _in_a_thread(engine)

    _in_a_thread(server)
    usual = slices[0]
    assert slices == [usual, SHORTEST_NS, usual]


def test_an_unknown_machine_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vram_llm.time_slice._SYSTEM_CALLS", {})
    with short_slices():
        assert slice_ns() is None


@pytest.mark.skipif(sys.platform != "linux", reason="a policy of Linux")
def test_a_thread_whose_policy_has_no_slices_keeps_it() -> None:
    found: list[int | None] = []

    def idle() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with short_slices():
            found.extend((slice_ns(), os.sched_getscheduler(0)))

    _in_a_thread(idle)
    assert found == [None, os.SCHED_IDLE]
