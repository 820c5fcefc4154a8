"""The asyncio handle a server holds on the engine process. Starts it, restarts it, ends it.

A death costs the requests in flight, which get EngineDied, and nothing else: the engine is started again
with the same plan, and the API says "loading" meanwhile.
"""

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from uuid import uuid4

from vram_llm.engine import wire
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.engine.request import EmbeddingRequest, FinishReason, Image, Request, Tick, TokenEvent
from vram_llm.engine.stats import Figures
from vram_llm.errors import ContextExceeded, EngineDied, Overloaded, RequestError, VramLLMError
from vram_llm.planner.types import Plan
from vram_llm.stderr_reason import environment, reason
from vram_llm.units import MIB

REMARKS = "vram_llm.remarks"  # the logger of what the engine has to say to whoever runs the server
log = logging.getLogger("vram_llm.engine")
remarks = logging.getLogger(REMARKS)

MAX_RESTARTS = 5  # within RESTART_WINDOW_S; more means that it will not hold
RESTART_WINDOW_S = 300.0
MAX_WAITING = 256  # requests beyond those that run, before new ones are turned away
MAX_IMAGES_BYTES = 256 * MIB  # of the files of images of all requests in flight, twice the largest request's
_STOP_GRACE_S = 5.0
Answer = wire.Tokens | wire.Pieces | wire.Embedded
_REFUSALS = (RequestError.code, ContextExceeded.code)


class EngineClient:
    """One engine process and its requests. Use from one event loop.

    `on_state` is called with the client whenever `state` or `detail` change.
    """

    def __init__(
        self, plan: Plan, model_name: str, on_state: Callable[["EngineClient"], None] = lambda _: None
    ) -> None:
        self.plan = plan
        self.state = EngineState.LOADING
        self.info: ModelInfo | None = None
        self.detail = "starting"
        self.failure: VramLLMError | None = None  # why it is DEAD
        self.load_fraction = 0.0
        self.figures = Figures()  # of the last step
        self._model_name = model_name
        self._on_state = on_state
        self._ticking: list[str] = []  # the requests that Ticks are of
        self._news: dict[str, asyncio.Queue[TokenEvent | VramLLMError]] = {}
        self._answers: dict[str, asyncio.Future[Answer]] = {}
        self._restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._stderr: deque[str] = deque(maxlen=20)
        self._seconds_per_request: float | None = None
        self._images_bytes = 0
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id of the engine, or of the last one where none runs; None before the first."""
        return None if self._process is None else self._process.pid

    @property
    def _n_requests(self) -> int:
        return len(self._news) + len(self._answers)

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin loading, in the background."""
        self._supervisor = asyncio.create_task(self._supervise(), name="engine supervisor")

    async def ready(self) -> ModelInfo:
        """Wait for the load. Raises what it failed with."""
        while self.state is not EngineState.READY:
            if self.state is EngineState.DEAD:
                raise self.failure or EngineDied("the engine is stopped")
            self._changed.clear()
            await self._changed.wait()
        assert self.info is not None
        return self.info

    async def drain(self, grace_s: float) -> None:
        """Turn new requests away; give those in flight `grace_s` to finish, then end them with EngineDied."""
        self._set_state(EngineState.STOPPING, "shutting down")
        if self._n_requests and grace_s:
            log.warning(
                "waiting up to %.0f s for %d requests in flight; Ctrl+C again ends them now",
                grace_s,
                self._n_requests,
            )
        deadline = time.monotonic() + grace_s
        while self._n_requests and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self._fail_all(EngineDied("the server is shutting down"))

    async def stop(self) -> None:
        """End the process and wait until it is gone."""
        self._set_state(EngineState.STOPPING, "shutting down")
        self._fail_all(EngineDied("the server is shutting down"))
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

    async def _supervise(self) -> None:
        try:
            while True:
                failure = await self._run_once()
                self._fail_all(EngineDied(f"the engine process died ({failure}); the request was lost"))
                if not self._may_restart(failure):
                    self.failure = failure
                    self._set_state(EngineState.DEAD, str(failure))
                    return
                delay_s = min(2.0 ** (len(self._restarts) - 1), 30.0) / 2
                self._set_state(EngineState.LOADING, f"restarting after: {failure}")
                log.error("%s; starting the engine again in %.1f s", failure, delay_s)
                self._restarts.append(time.monotonic())
                await asyncio.sleep(delay_s)
        except Exception as error:  # a fault of ours must not leave the API waiting for ever
            log.exception("the engine's supervisor failed")
            self.failure = EngineDied(f"the engine could not be started: {error}")
            self._fail_all(self.failure)
            self._set_state(EngineState.DEAD, str(self.failure))

    def _may_restart(self, failure: VramLLMError) -> bool:
        if self.info is None or self.state is EngineState.STOPPING:
            return False  # it never loaded: trying again would fail the same way
        recent = [at for at in self._restarts if time.monotonic() - at < RESTART_WINDOW_S]
        return len(recent) < MAX_RESTARTS

    async def _run_once(self) -> VramLLMError:
        """One process from start to end; why it ended."""
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
                start_new_session=True,  # Ctrl+C is the server's to act on
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
            with contextlib.suppress(ValueError):  # a line longer than the reader takes: dropped
                text = (await process.stderr.readline()).decode("utf-8", "replace").rstrip()
                self._stderr.append(text)
                log.debug("engine: %s", text)

    async def _read(self, reader: asyncio.StreamReader) -> VramLLMError | None:
        """Messages until the process closes its end; the error it gave, if it gave one."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                body = await reader.readexactly(wire.body_length(await reader.readexactly(wire.HEADER_BYTES)))
                match wire.decode_from_engine(body):
                    case wire.News(events, figures):
                        self.figures = figures
                        self._deliver(events)
                    case Tick(texts, tokens, ids):
                        self._ticking = ids or self._ticking
                        told = zip(self._ticking, texts, tokens, strict=True)
                        self._deliver(
                            TokenEvent(id=i, text=text, token_ids=(token,)) for i, text, token in told
                        )
                    case wire.Tokens(asked) | wire.Pieces(asked) | wire.Embedded(asked) as answer:
                        if (waiting := self._answers.get(asked)) is not None and not waiting.done():
                            waiting.set_result(answer)
                    case wire.Loading(fraction):
                        self.load_fraction = fraction
                        self._set_state(EngineState.LOADING, f"loading, {fraction:.0%}")
                    case wire.Ready(info):
                        self.info = info
                        self._set_state(EngineState.READY, "")
                    case wire.Remark(text):
                        remarks.info(text)
                    case wire.Failed(message, exit_code):
                        return _error_of(message, exit_code)
        return None

    # -- requests --------------------------------------------------------------------------------

    async def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """News of `request` until one has a finish reason. Closing the iterator early cancels the request.

        Raises EngineDied, Overloaded, RequestError (ContextExceeded among them).
        """
        self._admit()
        started = time.monotonic()
        news: asyncio.Queue[TokenEvent | VramLLMError] = asyncio.Queue()
        finished = False
        with self._held(request.images):
            try:
                self._send(wire.Submit(request))
                self._news[request.id] = news
                while not finished:
                    event = await news.get()
                    if isinstance(event, VramLLMError):
                        finished = True
                        raise event
                    finished = event.finish_reason is not None
                    if event.finish_reason is FinishReason.ERROR and event.error_code in _REFUSALS:
                        raise _refusal(event, event.prompt_tokens)
                    if finished:  # noted here: who reads the last event seldom comes back for the end
                        self._note_duration(time.monotonic() - started)
                    yield event
            finally:
                if self._news.pop(request.id, None) is not None and not finished:
                    self._send(wire.Cancel(request.id))

    async def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool, images: tuple[Image, ...] = ()
    ) -> list[int]:
        """The token ids of `text`, see llama.vocab.Vocab; -1 for each row of an image.

        Raises EngineDied, and with images Overloaded, and RequestError where one cannot be read.
        """
        with self._held(images):
            answer = await self._ask(wire.Tokenize(uuid4().hex, text, add_special, parse_special, images))
        assert isinstance(answer, wire.Tokens)
        if answer.error is not None:
            raise RequestError(answer.error, answer.error_param)
        return answer.tokens

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        """The bytes each of `tokens`, all in the vocabulary, is written with. Raises EngineDied."""
        answer = await self._ask(wire.Detokenize(uuid4().hex, tokens))
        assert isinstance(answer, wire.Pieces)
        return answer.pieces

    async def embed(self, request: EmbeddingRequest) -> wire.Embedded:
        """What the model makes of the request's inputs. Cancelling the task that waits cancels the request.

        The model's plan has a pooling. Raises EngineDied, Overloaded, RequestError (ContextExceeded).
        """
        self._admit()
        try:
            answer = await self._ask(wire.Embed(request))
        except asyncio.CancelledError:
            self._send(wire.Cancel(request.id))
            raise
        assert isinstance(answer, wire.Embedded)
        if answer.error is not None:
            raise _refusal(answer, answer.n_tokens[0] if answer.n_tokens else 0)
        return answer

    async def _ask(self, question: wire.Tokenize | wire.Detokenize | wire.Embed) -> Answer:
        if self.state is not EngineState.READY:
            raise EngineDied(f"the engine is not ready: {self.detail}")
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[question.id] = answer
        try:
            self._send(question)
            return await answer
        finally:
            del self._answers[question.id]

    def _admit(self) -> None:
        if self.state is not EngineState.READY:
            raise EngineDied(f"the engine is not ready: {self.detail}")
        limit = self.plan.context.parallel + MAX_WAITING
        if self._n_requests >= limit:
            raise self._overloaded(f"{self._n_requests} requests are in flight and {limit} is the most")

    @contextlib.contextmanager
    def _held(self, images: tuple[Image, ...]) -> Iterator[None]:
        """While images are in flight. Raises Overloaded."""
        n_bytes = sum(len(image.data) for image in images)
        if n_bytes and self._images_bytes + n_bytes > MAX_IMAGES_BYTES:
            raise self._overloaded(
                f"images of {self._images_bytes:,} bytes are in flight, these have {n_bytes:,} and "
                f"{MAX_IMAGES_BYTES:,} is the most"
            )
        self._images_bytes += n_bytes
        try:
            yield
        finally:
            self._images_bytes -= n_bytes

    def _overloaded(self, what: str) -> Overloaded:
        turns = self._n_requests / self.plan.context.parallel
        retry_after_s = max(1.0, turns * (self._seconds_per_request or 1.0))
        return Overloaded(f"{what}; try again in {retry_after_s:.0f} s", retry_after_s)

    def _note_duration(self, seconds: float) -> None:
        before = self._seconds_per_request
        self._seconds_per_request = seconds if before is None else 0.9 * before + 0.1 * seconds

    def _deliver(self, events: Iterable[TokenEvent]) -> None:
        for event in events:
            news = self._news.get(event.id)
            if news is not None:  # else it was cancelled while this was on its way
                news.put_nowait(event)

    def _fail_all(self, error: VramLLMError) -> None:
        for news in self._news.values():
            news.put_nowait(error)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)

    def _send(self, message: wire.ToEngine) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(wire.pack(message))

    def _set_state(self, state: EngineState, detail: str) -> None:
        if self.state is EngineState.STOPPING and state is not EngineState.DEAD:
            return
        self.state, self.detail = state, detail
        self._changed.set()
        self._on_state(self)


def _refusal(news: TokenEvent | wire.Embedded, n_tokens: int) -> RequestError:
    """The error that the engine met with one request."""
    message = news.error or "refused"
    if news.error_code != ContextExceeded.code:
        return RequestError(message, news.error_param)
    return ContextExceeded(
        message, news.error_param, n_prompt_tokens=n_tokens or None, n_ctx=news.error_n_ctx
    )


def _error_of(message: str, exit_code: int) -> VramLLMError:
    """The error of the tree that the engine met, made again from its exit code."""
    pending: list[type[VramLLMError]] = [VramLLMError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.exit_code == exit_code != VramLLMError.exit_code:
            return kind(message)
    return VramLLMError(message)
