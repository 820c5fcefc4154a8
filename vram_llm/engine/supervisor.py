"""Supervision of the engine process: start it, watch it, start it again after it died, end it.

The engine is started again with the same plan, and the API reports "loading" meanwhile. Requests in flight go
to the next engine as far as they can (in_flight.py).
"""

import asyncio
import contextlib
import logging
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from vram_llm.engine import wire
from vram_llm.engine.in_flight import RequestsInFlight
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.errors import EngineDied, VramLLMError
from vram_llm.planner.types import Plan
from vram_llm.stderr_reason import environment, reason

NOTICES = "vram_llm.notices"  # the logger for notices to the server's operator
log = logging.getLogger("vram_llm.engine")
notices = logging.getLogger(NOTICES)

MAX_RESTARTS = 5  # within RESTART_WINDOW_S; after more deaths the engine stays dead
RESTART_WINDOW_S = 300.0
_STOP_GRACE_S = 5.0


class EngineProcess(ABC):
    """One engine process, replaced by a new one when it dies. Use from one event loop.

    `on_change` is called whenever `state` or `detail` change.
    """

    def __init__(self, plan: Plan, model_name: str, on_change: Callable[[], None]) -> None:
        self.plan = plan
        self.state = EngineState.LOADING
        self.info: ModelInfo | None = None
        self.detail = "starting"
        self.failure: VramLLMError | None = None  # why it is DEAD
        self.load_fraction = 0.0
        self._in_flight = RequestsInFlight(self._send)
        self._model_name = model_name
        self._on_change = on_change
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._stderr: deque[str] = deque(maxlen=20)
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @abstractmethod
    def _receive(self, message: wire.FromEngine) -> bool:
        """Take a message about requests; False for any other message."""

    @property
    def pid(self) -> int | None:
        """The process id of the running engine, else of the last one; None before the first."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begin loading, in the background."""
        self._supervisor = asyncio.create_task(self._supervise(), name="engine supervisor")

    async def ready(self) -> ModelInfo:
        """Wait for the load. Raises the error it failed with."""
        while self.state is not EngineState.READY:
            if self.state is EngineState.DEAD:
                raise self.failure or EngineDied("the engine is stopped")
            self._changed.clear()
            await self._changed.wait()
        assert self.info is not None
        return self.info

    async def stop(self) -> None:
        """End the process and wait until it is gone."""
        self._set_state(EngineState.STOPPING, "shutting down")
        self._in_flight.fail_all(EngineDied("the server is shutting down"))
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            self._send(wire.Stop())
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_GRACE_S)
            except TimeoutError:
                self._process.kill()  # in the middle of a long llama_decode or load
                await self._process.wait()
        if self._writer is not None:
            self._writer.close()
        self._set_state(EngineState.DEAD, "stopped")

    # -- watching --------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        try:
            while True:
                failure = await self._run_once()
                if not self._may_restart(failure):
                    self.failure = failure
                    lost = (
                        f"the engine process died ({failure}) and is not started again; the request was lost"
                    )
                    self._in_flight.fail_all(EngineDied(lost))
                    self._set_state(EngineState.DEAD, str(failure))
                    return
                self._in_flight.note_death(failure)
                delay_s = min(2.0 ** (len(self._restarts) - 1), 30.0) / 2
                self._set_state(EngineState.LOADING, f"restarting after: {failure}")
                log.error("%s; starting the engine again in %.1f s", failure, delay_s)
                self._restarts.append(time.monotonic())
                await asyncio.sleep(delay_s)
        except Exception as error:  # a bug here must not leave the API waiting for ever
            log.exception("the engine's supervisor failed")
            self.failure = EngineDied(f"the engine could not be started: {error}")
            self._in_flight.fail_all(self.failure)
            self._set_state(EngineState.DEAD, str(self.failure))

    def _may_restart(self, failure: VramLLMError) -> bool:
        if self.info is None or self.state is EngineState.STOPPING:
            return False  # it never loaded: it would fail the same way again
        recent = [at for at in self._restarts if time.monotonic() - at < RESTART_WINDOW_S]
        return len(recent) < MAX_RESTARTS

    async def _run_once(self) -> VramLLMError:
        """Run one process from start to end. Returns the reason why it ended."""
        ours, theirs = socket.socketpair()
        self._stderr.clear()
        with theirs:
            reader, self._writer = await asyncio.open_connection(sock=ours)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vram_llm.engine.worker", str(theirs.fileno()),
                str(log.getEffectiveLevel()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=environment(),
                start_new_session=True,  # only the server handles Ctrl+C
            )  # fmt: skip
        listener = asyncio.create_task(self._keep_stderr(self._process))
        try:
            self._send(wire.Start(self.plan, self._model_name))
            failed = await self._read(reader)
            self._writer.close()
            code = await self._process.wait()
            await listener
        finally:
            listener.cancel()
        if failed is not None:
            return failed
        why = reason(self._stderr)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return EngineDied(f"engine process ended with {how}" + (f": {why}" if why else ""))

    async def _keep_stderr(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while not process.stderr.at_eof():
            with contextlib.suppress(ValueError):  # a line too long for the reader is dropped
                text = (await process.stderr.readline()).decode("utf-8", "replace").rstrip()
                self._stderr.append(text)
                log.debug("engine: %s", text)

    async def _read(self, reader: asyncio.StreamReader) -> VramLLMError | None:
        """Read messages until the process closes its end. Returns the error that it reported, if any."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                body = await reader.readexactly(wire.body_length(await reader.readexactly(wire.HEADER_BYTES)))
                message = wire.decode_from_engine(body)
                if self._receive(message):
                    continue
                match message:
                    case wire.Loading(fraction):
                        self.load_fraction = fraction
                        self._set_state(EngineState.LOADING, f"loading, {fraction:.0%}")
                    case wire.Ready(info):
                        self.info = info
                        self._set_state(EngineState.READY, "")
                        self._in_flight.note_ready()
                    case wire.Notice(text):
                        notices.info(text)
                    case wire.Failed(text, exit_code):
                        return _error_of(text, exit_code)
        return None

    def _send(self, message: wire.ToEngine) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.pack(message))

    def _set_state(self, state: EngineState, detail: str) -> None:
        if self.state is EngineState.STOPPING and state is not EngineState.DEAD:
            return
        self.state, self.detail = state, detail
        self._changed.set()
        self._on_change()


def _error_of(message: str, exit_code: int) -> VramLLMError:
    """The engine's error, made again from its exit code."""
    pending: list[type[VramLLMError]] = [VramLLMError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.exit_code == exit_code != VramLLMError.exit_code:
            return kind(message)
    return VramLLMError(message)
