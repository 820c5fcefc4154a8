"""Supervision of the engine process: start it, watch it, start it again after it died, end it.

After a death the engine is started again: restart_policy.py says when, plan_source.py with which plan. The
API reports "loading" meanwhile. Requests in flight go to the next engine as far as they can (in_flight.py),
and so do those that arrive meanwhile.
"""

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable

from vram_llm.engine import crash_report, wire
from vram_llm.engine.engine_log import EngineLog
from vram_llm.engine.engine_reader import EngineReader
from vram_llm.engine.heartbeat import Heartbeat
from vram_llm.engine.in_flight import RequestsInFlight
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.engine.outage import OutageWatch
from vram_llm.engine.plan_source import PlanSource, Replan
from vram_llm.engine.process import ProcessStarter, error_of
from vram_llm.engine.restart_policy import CRASH_WINDOW_S, MAX_KERNEL_CRASHES, RestartPolicy
from vram_llm.engine.watchdog import Watchdog, is_on
from vram_llm.errors import EngineDied, ModelChanged, VramLLMError
from vram_llm.planner.types import Plan
from vram_llm.stderr_reason import reason

NOTICES = "vram_llm.notices"  # the logger for notices to the server's operator
log = logging.getLogger("vram_llm.engine")
notices = logging.getLogger(NOTICES)

_STOP_GRACE_S = 5.0
_REPORT_S = 2.0  # to write a crash report; a disk that is away must not delay the restart
_CHANGED = "holds another model now; send the request again"
_WATCH_AGAIN_S = 1.0
_KEPT_LINES = 50  # of standard error


class EngineProcess(ABC):
    """One engine process, replaced by a new one when it dies. Use from one event loop.

    `on_change` and further `listeners` are called whenever `state` or `detail` change. `watchdog_s` is the
    Watchdog's limit. `replan` plans again if the model's files have changed or memory ran out. Processes come
    from `processes`. `restarts` says when the next one is started; None: by its defaults.
    """

    def __init__(
        self,
        plan: Plan,
        model_name: str,
        on_change: Callable[[], None],
        watchdog_s: float | None = None,
        replan: Replan | None = None,
        processes: ProcessStarter | None = None,
        restarts: RestartPolicy | None = None,
    ) -> None:
        self.plan = plan
        self._plans = PlanSource(plan, replan)
        self._processes = processes or ProcessStarter(log)
        self.state = EngineState.LOADING
        self.info: ModelInfo | None = None
        self.detail = "starting"
        self.failure: VramLLMError | None = None  # why it is DEAD
        self.load_fraction = 0.0
        self.in_flight = RequestsInFlight(self._send)
        self._model_name = model_name
        self.listeners = [on_change]
        self.n_restarts = 0  # times that another process was started
        self._restarts = restarts or RestartPolicy()
        self._outage = OutageWatch()
        self._watchdog_s = watchdog_s
        self._has_other_model = False  # than the requests in flight were made for
        self._hang: str | None = None  # why the running engine was killed
        self._why_restarted = ""
        self._reported = ""  # the last crash report's reason
        self._ready_at: float | None = None  # when the running engine had loaded; None: it has not
        self._stderr: deque[str] = deque(maxlen=_KEPT_LINES)
        self._writer: asyncio.StreamWriter | asyncio.WriteTransport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @abstractmethod
    def _receive(self, message: wire.FromEngine | None) -> bool:
        """Take a message about requests; False for any other message. None: the process sends no more."""

    @property
    def pid(self) -> int | None:
        """The process id of the running engine, else of the last one; None before the first."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begin loading, in the background. An engine that is DEAD begins anew."""
        if self.state is EngineState.DEAD:
            self.failure = None
            self._set_state(EngineState.LOADING, "starting")
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

    async def ended(self) -> None:
        """Wait until the engine is DEAD. Raises the error for which it is not started again, if any."""
        while self.state is not EngineState.DEAD:
            self._changed.clear()
            await self._changed.wait()
        if self.failure is not None:
            raise self.failure

    async def stop(self) -> None:
        """End the process and wait until it is gone."""
        self._set_state(EngineState.STOPPING, "shutting down")
        self.in_flight.fail_all(EngineDied("the server is shutting down"))
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

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what an operator should know while the engine serves."""
        return self._plans.warnings

    # -- watching --------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        try:
            while True:
                self._ready_at = None
                failure = await self._run_once()
                self.failure = self._end(failure)
                if self.failure is not None:
                    if self.in_flight.hands_over():
                        self.in_flight.note_death(failure)
                    lost = (
                        f"the engine process died ({failure}) and is not started again; the request was lost"
                    )
                    self.in_flight.fail_all(EngineDied(lost))
                    self._set_state(EngineState.DEAD, str(self.failure))
                    return
                await self._await_restart(failure)
        except Exception as error:  # a bug here must not leave the API waiting for ever
            log.exception("the engine's supervisor failed")
            self.failure = EngineDied(f"the engine could not be started: {error}")
            self.in_flight.fail_all(self.failure)
            self._set_state(EngineState.DEAD, str(self.failure))

    def _end(self, failure: VramLLMError) -> VramLLMError | None:
        """Count a death by `failure`. Returns the error for which the engine is not started again, if so."""
        gets_smaller = self._plans.note_failure(failure, had_loaded=self._ready_at is not None)
        if self.state is EngineState.STOPPING or (self.info is None and not gets_smaller):
            return failure  # it never loaded: it would fail the same way again
        now = time.monotonic()
        served_s = None if self._ready_at is None or gets_smaller else now - self._ready_at
        self._restarts.note_death(str(failure), now, served_s=served_s)
        if not self._restarts.is_spent:
            return None
        return EngineDied(
            f"the engine process died {self._restarts.n_crashes} times within "
            f"{CRASH_WINDOW_S / 60:.0f} minutes while it served, at last: {failure}"
        )

    async def _await_restart(self, failure: VramLLMError) -> None:
        """Hold the requests in flight, and wait until it is time for the next start."""
        if self._ready_at is not None:
            self.in_flight.note_death(failure)
        delay_s = self._restarts.delay_s
        when = f"in {delay_s:.3g} s" if delay_s else "now"
        self.n_restarts += 1
        self._why_restarted = f"{failure} (attempt {self._restarts.n_attempts})"
        self._set_state(EngineState.LOADING, f"restarting {when}, after: {self._why_restarted}")
        log.error("%s; the engine is started again %s (attempt %d)", failure, when, self._restarts.n_attempts)
        await self._outage.wait(self.plan, delay_s)

    async def _run_once(self) -> VramLLMError:
        """Run one process from start to end. Returns the reason why it ended, or could not be started."""
        self._stderr.clear()
        self._hang = None
        try:
            await self._take_plan()
        except VramLLMError as error:
            return error
        except (OSError, MemoryError) as error:  # a new plan needs files, processes and memory too
            return EngineDied(f"the plan for the next load could not be made: {error or 'no memory is left'}")
        try:
            started = await self._processes.take()
            with contextlib.closing(started.heartbeat) as heartbeat:
                self._process = process = started.process
                messages = EngineReader(self._take)
                loop = asyncio.get_running_loop()
                self._writer, _ = await loop.create_connection(lambda: messages, sock=started.sock)
                watches = (
                    asyncio.create_task(_watch_on(lambda: self._watch(process, heartbeat))),
                    asyncio.create_task(_watch_on(self._plans.watch)),
                )
                try:
                    return await self._follow(process, messages)
                finally:
                    messages.stop()
                    for watch in watches:
                        watch.cancel()
        except OSError as error:  # no file descriptor, process or memory is left
            if self._writer is not None:
                self._writer.close()
            return EngineDied(f"the engine process could not be started: {error}")

    async def _take_plan(self) -> None:
        """Take the plan to load. Raises VramLLMError."""
        before, self.plan = self.plan, await self._plans.for_load()
        self._has_other_model |= self.plan.model != before.model

    async def _follow(self, process: asyncio.subprocess.Process, messages: EngineReader) -> VramLLMError:
        """Pass on what a process sends until it ends. Returns the reason why it ended."""
        assert self._writer is not None
        listener = asyncio.create_task(self._keep_stderr(process))
        try:
            self._send(wire.Start(self.plan, self._model_name, self._restarts.extra_buffers))
            failed = await messages.ended
            self.in_flight.note_end()
            self._receive(None)
            self._set_state(EngineState.LOADING, self._hang or "the engine process has ended")
            self._writer.close()
            code = await process.wait()
            await listener
        finally:
            listener.cancel()
        if failed is not None:
            return failed
        failure = EngineDied(self._hang or _death(code, reason(self._stderr)))
        await self._note_crash(failure, code)
        return failure

    async def _note_crash(self, failure: EngineDied, code: int) -> None:
        """Write a crash report, and stop repacking weights if the processor's kernels seem to crash."""
        now = time.monotonic()
        report = crash_report.make_report(
            self.plan,
            code,
            str(failure),
            served_s=None if self._ready_at is None else now - self._ready_at,
            extra_buffers=self._restarts.extra_buffers,
            stderr=tuple(self._stderr),
        )
        if self._ready_at is not None or report.reason != self._reported:
            self._reported = report.reason
            try:
                path = await asyncio.wait_for(asyncio.to_thread(crash_report.write_report, report), _REPORT_S)
                log.error("the crash report is %s", path)
            except OSError as error:  # TimeoutError is one
                log.error("no crash report could be written: %s", error or "it took too long")
        if self._restarts.note_signal(-code):
            log.error(
                "after %d crashes by SIGILL or SIGSEGV the next loads use no extra buffer types, so that the "
                "processor's weights are not repacked",
                MAX_KERNEL_CRASHES,
            )

    async def _watch(self, process: asyncio.subprocess.Process, heartbeat: Heartbeat) -> None:
        """Kill the process once it hangs."""
        watchdog = Watchdog(self.plan.speed, self._watchdog_s)
        while is_on(self._watchdog_s):
            await asyncio.sleep(watchdog.look_every_s)  # between two looks at the process
            pulse = heartbeat.pulse(process.pid)
            self._hang = watchdog.look(pulse, time.monotonic(), is_loading=self._ready_at is None)
            if self._hang is not None:
                self._set_state(EngineState.LOADING, f"{self._hang}; it is killed and started again")
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    process.kill()
                return

    async def _keep_stderr(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        lines = EngineLog()
        while not process.stderr.at_eof():
            with contextlib.suppress(ValueError):  # a line too long for the reader is dropped
                text = (await process.stderr.readline()).decode("utf-8", "replace").rstrip()
                self._stderr.append(text)
                level, shown = lines.sort(text)
                log.log(level, "%s", shown)

    def _take(self, message: wire.FromEngine) -> VramLLMError | None:
        """Take a message of the running process. Returns the error that it reports, if any."""
        if self._receive(message):
            return None
        match message:
            case wire.Loading(fraction):
                self.load_fraction = fraction
                after = f", after: {self._why_restarted}" if self._why_restarted else ""
                self._set_state(EngineState.LOADING, f"loading, {fraction:.0%}{after}")
            case wire.Ready(info):
                self.info, self._ready_at = info, time.monotonic()
                if self._has_other_model:
                    self.in_flight.fail_all(ModelChanged(f"{self.plan.model.path} {_CHANGED}"))
                    self._has_other_model = False
                self._set_state(EngineState.READY, "")
                self.in_flight.note_ready()
                self._processes.note_ready()
            case wire.Notice(text):
                notices.info(text)
            case wire.MemoryWarning(text):
                self._plans.note_pressure(text)
            case wire.Failed(text, exit_code):
                return error_of(text, exit_code)
        return None

    def _send(self, message: wire.ToEngine) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.pack(message))

    def _set_state(self, state: EngineState, detail: str) -> None:
        if self.state is EngineState.STOPPING and state is not EngineState.DEAD:
            return
        self.state, self.detail = state, detail
        self._changed.set()
        for on_change in self.listeners:
            on_change()


async def _watch_on(watch: Callable[[], Awaitable[None]]) -> None:
    """Watch until `watch` returns, again and again if it fails: it may lack file descriptors for a while."""
    last = ""
    while True:
        try:
            return await watch()
        except Exception as error:  # the watch has to go on, whatever failed
            if repr(error) != last:
                log.exception("a watch over the engine failed; it begins again")
            last = repr(error)
        await asyncio.sleep(_WATCH_AGAIN_S)  # the failure may last


def _death(code: int, why: str | None) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"engine process ended with {how}" + (f": {why}" if why else "")
