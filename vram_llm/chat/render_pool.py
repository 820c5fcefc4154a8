"""The server's end of the processes that render chat templates."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from vram_llm.chat.render import Outcome, Rendering, rendering_with
from vram_llm.chat.render_process import read_frame, write_frame
from vram_llm.errors import Overloaded, VramLLMError

MAX_SECONDS = 3  # of processor time for one order, and one more for each MiB
_MOST_PROCESSES = 4
_MOST_TRIES = 3  # of an order whose processes ended for other reasons
_KEPT = 2  # processes that wait for orders
_MOST_WAIT_S = 120.0  # on the clock, of an order on a busy computer or of one that waits for a process
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")  # no keys


class RenderProcessFailed(VramLLMError):
    """No process for chat templates can be started, or each one was killed."""


class _RenderProcess:
    """One process, which works on one order at a time.

    `ended_otherwise`: not by its limit of time and no fault of the order. It had ended before, having grown
    large, or was killed: the kernel takes it first if memory runs out.
    """

    ended_otherwise = False

    def __init__(self, max_seconds: int) -> None:
        """Raises OSError."""
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_MOST_WAIT_S)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "vram_llm.chat.render_process",
                    str(theirs.fileno()),
                    str(max_seconds),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
                start_new_session=True,  # only the server handles Ctrl+C
            )

    @property
    def is_gone(self) -> bool:
        return self._process.poll() is not None

    def ask(self, order: bytes) -> Rendering | None:
        """The answer to an order; None if the process ended over it."""
        try:
            write_frame(self._socket, order)
            answer = read_frame(self._socket)
        except TimeoutError:
            return None
        except OSError:
            answer = None
        if answer is None:
            self.ended_otherwise = self._process.wait() in (0, -signal.SIGKILL)
            return None
        outcome, text, seconds = json.loads(answer)
        return Rendering(Outcome(outcome), str(text), float(seconds))

    def kill(self) -> None:
        """End it while another thread waits for its answer."""
        self._process.kill()

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


class RenderPool:
    """A Renderer whose processes are started before they are needed. Threads may share it."""

    def __init__(self, max_seconds: int = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        # the kernel ends a process with the thread that started it, so one thread starts all
        self._starter = ThreadPoolExecutor(1, "render-starter")
        self._free = threading.Semaphore(_MOST_PROCESSES)
        self._lock = threading.Lock()
        self._waiting: list[_RenderProcess] = []
        self._working: set[_RenderProcess] = set()
        self._is_closed = False
        self._starter.submit(self._warm)

    def __call__(self, source: str, names: Mapping[str, Any] | None) -> Rendering:
        """See Renderer. Raises RenderProcessFailed, Overloaded."""
        order = pickle.dumps((source, names), pickle.HIGHEST_PROTOCOL)
        if not self._free.acquire(timeout=_MOST_WAIT_S):
            raise Overloaded("All processes that render chat templates are busy; try again later", 10.0)
        try:
            rendering = self._ask(order)
        finally:
            self._free.release()
        if rendering is not None:
            return rendering
        why = (
            f"it takes more than {self._max_seconds} s of processor time, or more memory than any chat needs"
        )
        return Rendering(Outcome.ENDED, why, self._max_seconds + 1.0)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._is_closed, waiting, self._waiting = True, self._waiting, []
            working = list(self._working)
        for process in waiting:
            process.close()
        for process in working:
            process.kill()
        self._starter.shutdown()

    def _ask(self, order: bytes) -> Rendering | None:
        """The answer to an order; None if a process ended over it. Raises RenderProcessFailed."""
        for _ in range(_MOST_TRIES):
            process = self._take()
            rendering = self._ask_one(process, order)
            if rendering is not None or self._is_closed or not process.ended_otherwise:
                return rendering
        raise RenderProcessFailed(
            f"the system killed {_MOST_TRIES} processes that rendered the chat template: is memory short?"
        )

    def _ask_one(self, process: _RenderProcess, order: bytes) -> Rendering | None:
        with self._lock:
            self._working.add(process)
        rendering = None
        try:
            rendering = process.ask(order)
        finally:
            with self._lock:
                self._working.discard(process)
            if rendering is None:
                process.close()
                self._replace()
            else:
                self._put(process)
        return rendering

    def _take(self) -> _RenderProcess:
        with self._lock:
            while self._waiting:
                process = self._waiting.pop()
                if not process.is_gone:
                    return process
                process.close()
        try:
            return self._starter.submit(_RenderProcess, self._max_seconds).result()
        except (OSError, RuntimeError) as error:
            raise RenderProcessFailed(f"no process can be started for the chat template: {error}") from error

    def _put(self, process: _RenderProcess) -> None:
        with self._lock:
            if not self._is_closed and len(self._waiting) < _KEPT:
                self._waiting.append(process)
                return
        process.close()

    def _replace(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._starter.submit(self._warm)

    def _warm(self) -> None:
        """Start a process that waits for orders, if there is none."""
        with self._lock:
            if self._waiting or self._is_closed:
                return
        try:
            process = _RenderProcess(self._max_seconds)
        except OSError:  # the next order tries again
            return
        self._put(process)


@contextmanager
def rendering_in_processes(max_seconds: int = MAX_SECONDS) -> Iterator[None]:
    """Render the templates of this process in others until the block ends."""
    pool = RenderPool(max_seconds)
    try:
        with rendering_with(pool):
            yield
    finally:
        pool.close()
