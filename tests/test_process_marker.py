"""A test without the marker "process" starts none, by whatever way."""

import asyncio
import multiprocessing
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import BaseContext

import pytest

from tests.process_marks import may_choose

NOTHING = [sys.executable, "-c", ""]
METHODS: dict[str, BaseContext] = {
    "fork": multiprocessing.get_context("fork"),
    "spawn": multiprocessing.get_context("spawn"),
    "forkserver": multiprocessing.get_context("forkserver"),
}


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


async def coroutine() -> None:
    await asyncio.create_subprocess_exec(*NOTHING)


WAYS: dict[str, Callable[[], object]] = {
    "subprocess": lambda: subprocess.run(NOTHING, check=True),
    "popen": lambda: os.popen("true"),
    "asyncio": lambda: asyncio.run(coroutine()),
    "fork": fork,
    "spawnv": lambda: os.spawnv(os.P_WAIT, sys.executable, NOTHING),
    "posix_spawn": lambda: os.posix_spawn(sys.executable, NOTHING, os.environ),
    "system": lambda: os.system("true"),
    "pty": lambda: pty.spawn(NOTHING),
    "Process, forked": multiprocessing.get_context("fork").Process(target=print).start,
    "Process, spawned": multiprocessing.get_context("spawn").Process(target=print).start,
    "Process, of a server": multiprocessing.get_context("forkserver").Process(target=print).start,
}


def refused() -> "pytest.RaisesExc[BaseException]":
    return pytest.raises(pytest.fail.Exception, match=r"starts a process .* has no marker 'process'")


@pytest.mark.parametrize("way", WAYS)
def test_a_process_is_refused(way: str) -> None:
    with refused():
        WAYS[way]()


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_of_processes_is_refused(method: str) -> None:
    with refused(), ProcessPoolExecutor(1, METHODS[method]) as executor:
        executor.submit(print).result()


@pytest.mark.process
def test_a_test_with_the_marker_may_start_one() -> None:
    assert subprocess.run(NOTHING, check=True).returncode == 0


@pytest.mark.parametrize(
    ("text", "with_processes", "without"),
    [
        ("pytestmark = pytest.mark.process\n", True, False),
        ("pytestmark = [\n    pytest.mark.process,\n    other,\n]\n", True, False),
        ("@pytest.mark.process\ndef test() -> None: ...\n", True, True),
        ("from tests.other import pytestmark\n", True, True),
        ("def test() -> None: ...\n", False, True),
    ],
)
def test_files_that_have_no_chosen_test(text: str, with_processes: bool, without: bool) -> None:
    assert may_choose(text, "process") is with_processes
    assert may_choose(text, "not process") is without
    assert may_choose(text, "")
