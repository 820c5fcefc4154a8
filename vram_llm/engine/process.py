"""Start engine processes, one of them in advance, and read the error that one ended with."""

import asyncio
import contextlib
import logging
import socket
import sys
from dataclasses import dataclass

from vram_llm.engine.heartbeat import Heartbeat
from vram_llm.errors import VramLLMError
from vram_llm.stderr_reason import environment

_AFTER_LOAD_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class StartedProcess:
    """An engine process that waits for its plan, our end of its socket pair, and its heartbeat."""

    process: asyncio.subprocess.Process
    sock: socket.socket
    heartbeat: Heartbeat


class ProcessStarter:
    """Starts engine processes. They get the level of `log`."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log

    async def take(self) -> StartedProcess:
        """A process for an engine. Raises OSError."""
        with contextlib.ExitStack() as undo:
            undo.callback((heartbeat := Heartbeat()).close)
            ours, theirs = socket.socketpair()
            undo.enter_context(ours)
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "vram_llm.engine.worker", str(theirs.fileno()),
                    str(self._log.getEffectiveLevel()), str(heartbeat.fd),
                    pass_fds=[theirs.fileno(), heartbeat.fd],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    env=environment(),
                    start_new_session=True,  # only the server handles Ctrl+C
                )  # fmt: skip
            undo.pop_all()
            return StartedProcess(process, ours, heartbeat)

    def note_ready(self) -> None:
        """An engine has loaded: there is time to prepare the next start."""


class SpareProcess(ProcessStarter):
    """Starts each process in advance: Python and llama.cpp's libraries take longer than many a model.

    The spare one opens no device before its load. Use from one event loop.
    """

    def __init__(self, log: logging.Logger) -> None:
        super().__init__(log)
        self._spare: asyncio.Task[StartedProcess] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> StartedProcess:
        """The spare process, or a new one if there is none. Raises OSError."""
        spare, self._spare = self._spare, None
        if spare is not None:
            with contextlib.suppress(OSError):
                started = await spare
                if _waits(started.sock):
                    return started
                _close(started)
        return await super().take()

    def note_ready(self) -> None:
        """Start a spare process, once the engine has had time for its first tokens."""
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(_AFTER_LOAD_S, self._begin)

    def _begin(self) -> None:
        if self._spare is None:
            self._spare = asyncio.create_task(super().take())

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def close(self) -> None:
        """End the spare process, and wait until it is gone."""
        self._cancel_timer()
        spare, self._spare = self._spare, None
        if spare is None:
            return
        with contextlib.suppress(OSError):
            started = await spare
            _close(started)
            with contextlib.suppress(ProcessLookupError):
                started.process.kill()
            await started.process.wait()


def _waits(sock: socket.socket) -> bool:
    """Whether the process at the other end waits for its plan: it has neither ended nor sent its error."""
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _close(started: StartedProcess) -> None:
    started.sock.close()
    started.heartbeat.close()


def error_of(message: str, exit_code: int) -> VramLLMError:
    """The engine's error, made again from its exit code."""
    pending: list[type[VramLLMError]] = [VramLLMError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.exit_code == exit_code != VramLLMError.exit_code:
            return kind(message)
    return VramLLMError(message)
