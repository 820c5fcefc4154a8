"""The server's handle on the engine process: many requests at once over one connection."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from uuid import uuid4

import msgspec

from vram_llm.engine import wire
from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.adapters import Adapters
from vram_llm.engine.answer_times import AnswerTimes
from vram_llm.engine.in_flight import HandedOver
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.plan_source import Replan
from vram_llm.engine.process import ProcessStarter
from vram_llm.engine.recent_load import LoadCounts, RecentLoad
from vram_llm.engine.request import DecodeTick, EmbeddingRequest, FinishReason, Image, Request, TokenEvent
from vram_llm.engine.request_metrics import ABORT, RequestHistograms, RequestMetrics
from vram_llm.engine.restart_policy import RestartPolicy
from vram_llm.engine.slot_order import SlotDone, SlotOrder
from vram_llm.engine.stats import EngineStats, with_earlier
from vram_llm.engine.supervisor import EngineProcess, log
from vram_llm.engine.unread_events import TakeEvent, UnreadEvents
from vram_llm.errors import (
    ContextExceeded,
    EngineDied,
    Overloaded,
    RequestError,
    RequestTimeout,
    VramLLMError,
)
from vram_llm.planner.types import Plan
from vram_llm.units import MIB

MAX_WAITING = 256  # requests that wait; further ones are refused
MAX_QUESTIONS = 256  # about the vocabulary and slots, in flight; further ones are refused
_MOST_FOR_MANY = 4  # times as many, if several clients have their shares of them
MAX_IMAGES_BYTES = 256 * MIB  # image files of all requests in flight, twice the largest request's
_FINISH_GRACE_S = 5.0  # for the engine to end a request whose time is over
_REFUSALS = (RequestError.code, ContextExceeded.code)


class EngineClient(EngineProcess):
    """An engine process and its requests. Use from one event loop.

    `on_state` is called with the client whenever `state` or `detail` change. `stats` are those after the last
    full step. `watchdog_s` is the Watchdog's limit. `replan` plans again: see PlanSource. `processes` and
    `restarts`: see EngineProcess.
    """

    def __init__(
        self,
        plan: Plan,
        model_name: str,
        on_state: Callable[["EngineClient"], None] = lambda _: None,
        *,
        watchdog_s: float | None = None,
        replan: Replan | None = None,
        processes: ProcessStarter | None = None,
        restarts: RestartPolicy | None = None,
    ) -> None:
        super().__init__(plan, model_name, lambda: on_state(self), watchdog_s, replan, processes, restarts)
        self.stats = EngineStats()
        self._earlier = EngineStats()  # of engines that have ended
        self._n_unreported = 0  # tokens of DecodeTicks since the last stats
        self._metrics = RequestMetrics(plan.context.n_ctx_seq)
        self._recent = RecentLoad(time.monotonic())
        self._tick_ids: list[str] = []  # the requests of the columns of DecodeTicks
        self._times = AnswerTimes(plan.context.parallel)
        self._offers: dict[str, TakeEvent] = {}  # to requests that are about to run, by id
        self._images_bytes = 0
        self._n_questions = 0
        self.adapters: Adapters | None = None
        self._slots: tuple[int, ...] = ()  # tokens that each holds while no request runs there

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests; give those in flight `grace_s` to finish, then end them with EngineDied."""
        self._set_state(EngineState.STOPPING, "shutting down")
        if self.in_flight and grace_s:
            log.warning(
                "waiting up to %.0f s for %d requests in flight; Ctrl+C again ends them now",
                grace_s,
                len(self.in_flight),
            )
        deadline = time.monotonic() + grace_s
        while self.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.05)  # between two looks at the requests in flight
        self.in_flight.fail_all(EngineDied("the server is shutting down"))

    # -- requests --------------------------------------------------------------------------------

    async def generate(self, request: Request, *, n_deaths: int = 0) -> AsyncGenerator[TokenEvent, None]:
        """Events of `request`; the last has a finish reason. Closing the iterator early cancels the request.

        If the engine dies, the next one begins or continues the answer, see in_flight.py. `n_deaths` other
        engines died while they worked on it. Raises EngineDied (HandedOver), Overloaded, RequestError
        (ContextExceeded, PoisonRequest and RequestTimeout among them).
        """
        take_at_once = self._offers.pop(request.id, None)
        self._admit(request.client)
        events = UnreadEvents(lambda: self.in_flight.drop(request.id), take_at_once)
        finished = False
        with self._count_images(request.images), self._time_limit(request, events.put):
            try:
                now = time.monotonic()
                self._times.begin(request.id, request.client, request.max_tokens, now)
                self._metrics.begin(request, now)
                self.in_flight.add(wire.Submit(request), events.put, n_deaths)
                while not finished:
                    event = await events.take()
                    if isinstance(event, HandedOver):
                        self._metrics.forget(request.id)
                    if isinstance(event, Exception):
                        self._metrics.end(request.id, FinishReason.ERROR.value, time.monotonic())
                        raise event
                    finished = event.finish_reason is not None
                    if event.error_code == RequestTimeout.code:
                        raise _too_late(request.max_time_s or 0.0)
                    if event.finish_reason is FinishReason.ERROR and event.error_code in _REFUSALS:
                        raise _refusal(event, event.prompt_tokens)
                    yield event
            finally:
                self.in_flight.drop(request.id)
                self._metrics.end(request.id, ABORT, now := time.monotonic())
                self._times.end(request.id, now, is_whole=finished)

    def offer_events(self, request_id: str, take: TakeEvent) -> None:
        """Offer events to `take` before `generate` yields them, see engine_protocol.Engine."""
        self._offers[request_id] = take

    def cancel(self, request_id: str, client: str | None) -> bool:
        """End a request, see engine_protocol.Engine."""
        return self.in_flight.cancel(request_id, client)

    async def tokenize(
        self,
        text: str,
        *,
        add_special: bool,
        parse_special: bool,
        images: tuple[Image, ...] = (),
        n_deaths: int = 0,
    ) -> list[int]:
        """The token ids of `text`, see llama.vocab.Vocab; -1 for each row of an image.

        Raises EngineDied, Overloaded, PoisonRequest, and RequestError for an image that cannot be read.
        """
        with self._count_question(), self._count_images(images):
            answer = await self._ask(
                wire.Tokenize(uuid4().hex, text, add_special, parse_special, images), n_deaths
            )
        assert isinstance(answer, wire.Tokens)
        if answer.error is not None:
            raise RequestError(answer.error, answer.error_param)
        return answer.tokens

    async def pieces(self, tokens: list[int], *, n_deaths: int = 0) -> list[bytes]:
        """The bytes of each of `tokens`, which have to be in the vocabulary.

        Raises EngineDied, Overloaded, PoisonRequest.
        """
        with self._count_question():
            answer = await self._ask(wire.Detokenize(uuid4().hex, tokens), n_deaths)
        assert isinstance(answer, wire.Pieces)
        return answer.pieces

    async def embed(self, request: EmbeddingRequest, *, n_deaths: int = 0) -> wire.Embedded:
        """The vectors or scores of the request's inputs. Cancelling the waiting task cancels the request.

        Only for a model whose plan has a pooling. Raises EngineDied, Overloaded, RequestError
        (ContextExceeded, PoisonRequest).
        """
        self._admit(request.client)
        now = time.monotonic()
        self._times.begin(request.id, request.client, len(request.inputs), now)
        self._metrics.begin(request, now)
        answer = None
        try:
            with self._count_images(sum(request.images, ())):
                answer = await self._ask(wire.Embed(request), n_deaths)
            assert isinstance(answer, wire.Embedded)
            if answer.error is not None:
                self._metrics.end(request.id, FinishReason.ERROR.value, time.monotonic())
                raise _refusal(answer, answer.n_tokens[0] if answer.n_tokens else 0)
            self._metrics.note_embedded(request.id, sum(answer.n_tokens), time.monotonic())
        except HandedOver:
            self._metrics.forget(request.id)
            raise
        finally:
            self._metrics.end(request.id, ABORT, now := time.monotonic())
            self._times.end(request.id, now, is_whole=answer is not None)
        return answer

    async def order_slot(self, order: SlotOrder) -> SlotDone:
        """Do an order about a slot, see engine_protocol.Engine."""
        with self._count_question():
            answer = await self._ask(order, 0)
        assert isinstance(answer, SlotDone)
        return answer.checked()

    async def _ask(
        self, question: wire.Tokenize | wire.Detokenize | wire.Embed | SlotOrder, n_deaths: int
    ) -> wire.Answer:
        answer: asyncio.Future[wire.Answer] = asyncio.get_running_loop().create_future()

        def settle(result: wire.Answer | VramLLMError) -> None:
            if answer.done():  # cancelled
                return
            if isinstance(result, VramLLMError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        try:
            self.in_flight.add(question, settle, n_deaths)
            return await answer
        finally:
            self.in_flight.drop(question.id)

    @contextlib.contextmanager
    def _time_limit(self, request: Request, put: Callable[[VramLLMError], None]) -> Iterator[None]:
        """At the end of the request's time let the engine finish it, or `put` RequestTimeout."""
        limit_s = request.max_time_s
        if limit_s is None:
            yield
            return
        loop = asyncio.get_running_loop()
        error = _too_late(limit_s)

        def end() -> None:
            if self.in_flight.finish(request.id):  # its last event comes, unless the engine does not answer
                timers.append(loop.call_later(_FINISH_GRACE_S, put, error))
            else:
                put(error)

        timers = [loop.call_later(limit_s, end)]
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    # -- limits ----------------------------------------------------------------------------------

    def _check_ready(self) -> None:
        """Raises EngineDied unless there is an engine, or the next one is about to be there."""
        restarts = self.state is EngineState.LOADING and self.info is not None
        if self.state is not EngineState.READY and not restarts:
            raise EngineDied(f"the engine is not ready: {self.detail}")

    def _admit(self, client: str = "") -> None:
        """Raises EngineDied, Overloaded. A full queue takes more from clients with less than their share."""
        self._check_ready()
        n = len(self.in_flight) - self._n_questions
        times, limit = self._times, self.plan.context.parallel + MAX_WAITING
        n_more, share = times.n_of(client) + 1, limit // times.n_clients(client)
        if n < limit or (n_more <= share and n < _MOST_FOR_MANY * limit):
            return
        now = time.monotonic()
        waits = (
            times.seconds_until_done(n + 1 - limit, now),
            times.seconds_until_done(n_more - share, now, client) if n < _MOST_FOR_MANY * limit else None,
        )
        raise _overloaded(f"{n} requests are in flight and {limit} is the most", waits)

    def seconds_until_done(self, n: int, client: str) -> float:
        """The expected time until `n` sequences of a client have ended, in seconds."""
        return self._times.seconds_until_done(n, time.monotonic(), client) or 1.0

    def queue_s(self, request_id: str) -> float:
        """How long a request in flight has waited for a free sequence, in seconds."""
        return self._times.queue_s(request_id)

    @contextlib.contextmanager
    def _count_question(self) -> Iterator[None]:
        """Count a question about the vocabulary or a slot. Raises EngineDied, Overloaded."""
        self._check_ready()
        if self._n_questions >= MAX_QUESTIONS:
            raise _overloaded(
                f"{self._n_questions} texts and slots wait for the engine and that is the most", ()
            )
        self._n_questions += 1
        try:
            yield
        finally:
            self._n_questions -= 1

    @contextlib.contextmanager
    def _count_images(self, images: tuple[Image, ...]) -> Iterator[None]:
        """Count the bytes of images while they are in flight. Raises Overloaded."""
        n_bytes = sum(len(image.data) for image in images)
        if n_bytes and self._images_bytes + n_bytes > MAX_IMAGES_BYTES:
            wait = self._times.seconds_until_done(1, time.monotonic())
            raise _overloaded(
                f"images of {self._images_bytes:,} bytes are in flight, these have {n_bytes:,} and "
                f"{MAX_IMAGES_BYTES:,} is the most",
                (wait,),
            )
        self._images_bytes += n_bytes
        try:
            yield
        finally:
            self._images_bytes -= n_bytes

    # -- answers ---------------------------------------------------------------------------------

    def _receive(self, message: wire.FromEngine | None) -> bool:
        match message:
            case DecodeTick(texts, tokens, ids):
                self._n_unreported += len(tokens)
                self._tick_ids = ids or self._tick_ids
                self._metrics.note_tick(ids, now := time.monotonic())
                for request_id, text, token in zip(self._tick_ids, texts, tokens, strict=True):
                    self._times.note_tokens(request_id, 1, now)
                    self.in_flight.deliver(TokenEvent(id=request_id, text=text, token_ids=(token,)))
            case wire.StepEvents(events, stats):
                self.stats, self._n_unreported = stats, 0
                self._metrics.note_events(events, now := time.monotonic())
                if self._recent.grows(now):
                    self._recent.note(_load_counts(self.totals, self._metrics.histograms), now)
                for event in events:
                    self._times.note_tokens(event.id, len(event.token_ids), now)
                    self.in_flight.deliver(event)
            case wire.Waiting(ids):
                self.in_flight.waiting = frozenset(ids)
                self._times.note_waiting(ids, now := time.monotonic())
                self._metrics.note_waiting(ids, now)
            case wire.SlotStates(running, held):
                self._metrics.note_slots(running)
                self._slots = tuple(held)
            case wire.Tokens() | wire.Pieces() | wire.Embedded() | SlotDone():
                self.in_flight.answer(message)
            case None:
                self._slots = ()
                self._earlier, self.stats, self._n_unreported = self.totals, EngineStats(), 0
                self._metrics.note_waiting((), time.monotonic())
            case _:
                return False
        return True

    # -- activity --------------------------------------------------------------------------------

    @property
    def totals(self) -> EngineStats:
        """The stats with the counts of engines that have ended, and with the tokens of the last steps."""
        totals = with_earlier(self.stats, self._earlier)
        n_generated = totals.n_generated_tokens + self._n_unreported
        return msgspec.structs.replace(totals, n_generated_tokens=n_generated)

    @property
    def activity(self) -> EngineActivity:
        """Its work now, and since the server's start."""
        now, totals, metrics = time.monotonic(), self.totals, self._metrics
        return EngineActivity(
            plan=self.plan,
            pid=self.pid if self.state is EngineState.READY else None,
            n_restarts=self.n_restarts,
            uptime_s=None if self._ready_at is None else now - self._ready_at,
            totals=totals,
            recent=self._recent.rates(_load_counts(totals, metrics.histograms), now),
            requests=tuple(metrics.snapshots(self.in_flight.unsent, now)),
            histograms=metrics.histograms,
            endings=metrics.endings,
            longest=metrics.longest,
            slots=self._slots,
        )


def _load_counts(totals: EngineStats, histograms: RequestHistograms) -> LoadCounts:
    first, later = histograms.time_to_first_token_s, histograms.inter_token_latency_s
    counts = totals.n_prompt_tokens, totals.n_generated_tokens
    return LoadCounts(*counts, first.count, first.total, later.count, later.total)


def _overloaded(reason: str, waits: Iterable[float | None]) -> Overloaded:
    """The error for a full queue; the shortest of the expected `waits` is the time to try again."""
    retry_after_s = min((wait for wait in waits if wait), default=1.0)
    return Overloaded(f"{reason}; try again in {retry_after_s:.1f} s", retry_after_s)


def _too_late(limit_s: float) -> RequestTimeout:
    return RequestTimeout(f"The time for this request, {limit_s:g} s, was over before its answer had begun")


def _refusal(answer: TokenEvent | wire.Embedded, n_tokens: int) -> RequestError:
    """The error for a request that the engine refused."""
    message = answer.error or "refused"
    if answer.error_code != ContextExceeded.code:
        return RequestError(message, answer.error_param)
    return ContextExceeded(
        message, answer.error_param, n_prompt_tokens=n_tokens or None, n_ctx=answer.error_n_ctx
    )
