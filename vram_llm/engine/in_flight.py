"""Requests that the engine has not answered in full, and what happens to them when it dies.

Requests whose client has seen nothing, and those that another engine can continue, are submitted to the next
engine, in order. The requests that the dead engine worked on go first, one at a time, on trial: the next one
follows when the one before has a new token. So a request that kills the engine is alone when it does so
again, and is refused then. The others go on.

Where other engines serve the same model (fleet/replicas.py), a death hands these requests over to them: each
ends with HandedOver, and whoever catches it submits the request elsewhere, where it is on trial as well.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from vram_llm.engine import wire
from vram_llm.engine.request import FinishReason, TokenEvent
from vram_llm.errors import (
    AnswerCutOff,
    EngineDied,
    PoisonRequest,
    RequestCancelled,
    RequestTimeout,
    VramLLMError,
)

MAX_DEATHS = 2  # of engines that worked on a request; it is then refused
_MOST_DIGITS = 5  # of a sequence's number
log = logging.getLogger("vram_llm.engine")


class HandedOver(EngineDied):
    """An engine gives a request back, so that another one answers it.

    `written` are the tokens of its answer, those of earlier engines included. `n_deaths` engines died while
    they worked on it.
    """

    def __init__(self, message: str, written: tuple[int, ...], n_deaths: int) -> None:
        super().__init__(message)
        self.written = written
        self.n_deaths = n_deaths


@dataclass(slots=True, eq=False)
class RequestInFlight:
    """A question to the engine. `settle` takes its events or its answer, and the error that ends it.

    `tokens` of its answer were received. `n_deaths` engines died while they worked on it. `counts` are the
    prompt's tokens and those of them that were computed for an earlier request.
    """

    question: wire.Question
    settle: Callable[[Any], None]
    tokens: list[int] = field(default_factory=list)
    n_deaths: int = 0
    counts: tuple[int, int] = (0, 0)
    is_sent: bool = False  # to the engine that runs

    @property
    def written(self) -> tuple[int, ...]:
        """The tokens of its answer, those that another engine wrote before included."""
        question = self.question
        earlier = question.request.written if isinstance(question, wire.Submit) else ()
        return (*earlier, *self.tokens)

    @property
    def can_resume(self) -> bool:
        """True if it can be submitted again."""
        question = self.question
        return not self.tokens or (isinstance(question, wire.Submit) and question.request.can_resume)

    @property
    def resumed(self) -> wire.Question:
        """The question, with the part of its answer that is there."""
        question = self.question
        if not self.tokens or not isinstance(question, wire.Submit):
            return question
        return wire.Submit(replace(question.request, written=self.written, reports_progress=False))

    @property
    def cut_off(self) -> TokenEvent:
        """The last event of an answer that ends with the tokens that were received."""
        n_prompt, n_cached = self.counts
        return TokenEvent(
            id=self.question.id,
            prompt_tokens=n_prompt,
            cached_tokens=n_cached,
            completion_tokens=len(self.written),
            finish_reason=FinishReason.LENGTH,
        )


class RequestsInFlight:
    """All requests in flight, in the order of their arrival. `send` sends a message to the engine.

    `hands_over` says at a death whether another engine takes its requests.
    """

    def __init__(self, send: Callable[[wire.ToEngine], None]) -> None:
        self.hands_over: Callable[[], bool] = lambda: False
        self.waiting: frozenset[str] = frozenset()  # in the engine, for a slot
        self._send = send
        self._requests: dict[str, RequestInFlight] = {}
        self._held: deque[RequestInFlight] = deque()  # to be sent
        self._suspects: deque[RequestInFlight] = deque()  # to be sent one at a time: an engine died of one
        self._on_trial: RequestInFlight | None = None
        self._has_engine = False
        self._holds_for_trials = False  # an engine died here: its suspects are tried before others are sent

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def all_waiting(self) -> frozenset[str]:
        """Ids of those that no engine works on."""
        return self.waiting | self.unsent

    @property
    def unsent(self) -> frozenset[str]:
        """Ids of those that no engine has yet."""
        return frozenset(request.question.id for request in (*self._suspects, *self._held))

    def add(self, question: wire.Question, settle: Callable[[Any], None], n_deaths: int = 0) -> None:
        """Send a new request as soon as there is an engine for it.

        `n_deaths` other engines died while they worked on it: it waits for its trial.
        """
        request = RequestInFlight(question, settle, n_deaths=n_deaths)
        self._requests[question.id] = request
        (self._suspects if n_deaths else self._held).append(request)
        self._send_held()

    def drop(self, request_id: str) -> None:
        """Cancel a request, if it is still in flight."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        if request.is_sent:
            self._send(wire.Cancel(request_id))
        self._end_trial(request)

    def cancel(self, request_id: str, client: str | None) -> bool:
        """End a request of a client (None: anybody's) with RequestCancelled, and all sequences of a reply.

        False if there is none.
        """
        found = [
            request
            for request in self._requests.values()
            if isinstance(asked := request.question, wire.Submit | wire.Embed)
            and client in (None, asked.request.client)
            and is_called(asked.id, request_id)
        ]
        for request in found:
            self.drop(request.question.id)
            request.settle(RequestCancelled(f"request {request.question.id} was cancelled"))
        return bool(found)

    def finish(self, request_id: str) -> bool:
        """End a request with the tokens that it has. False if it has none and no engine has the request."""
        request = self._requests.get(request_id)
        if request is None:
            return False
        if request.is_sent and self._has_engine:
            self._send(wire.Finish(request_id))
        elif request.written:
            self.deliver(request.cut_off)
        else:
            return False
        return True

    def deliver(self, event: TokenEvent) -> None:
        """Pass on an event. One of a request that was cancelled meanwhile is dropped."""
        request = self._requests.get(event.id)
        if request is None:
            return
        request.tokens += event.token_ids
        if event.prompt_tokens:
            request.counts = event.prompt_tokens, event.cached_tokens
        if event.error_code == RequestTimeout.code and request.written:  # all are of an earlier engine
            event = request.cut_off
        if event.finish_reason is not None:
            del self._requests[event.id]
        request.settle(event)
        if request is self._on_trial and (event.token_ids or event.finish_reason is not None):
            self._end_trial(request)

    def answer(self, answer: wire.Answer) -> None:
        """Pass on the answer to a question."""
        if (request := self._requests.pop(answer.id, None)) is not None:
            request.settle(answer)
            self._end_trial(request)

    def hand_back(self, request_id: str) -> bool:
        """End a request that no engine works on with HandedOver. False if it is not such a request."""
        request = self._requests.get(request_id)
        if request is None or (request.is_sent and request_id not in self.waiting):
            return False
        self.drop(request_id)
        request.settle(_handed_over(request, "another engine is free"))
        return True

    def fail_all(self, error: VramLLMError) -> None:
        """End all requests with `error`."""
        self._fail_each(lambda _: error)

    # -- death and restart -----------------------------------------------------------------------

    def note_end(self) -> None:
        """The engine takes no more messages: hold new requests, of which it cannot have died."""
        self._has_engine = False

    def note_death(self, failure: VramLLMError) -> None:
        """Hold the requests that the next engine can answer, or hand them over, and end the others."""
        worked_on = [r for i, r in self._requests.items() if r.is_sent and i not in self.waiting]
        if self._on_trial is not None and self._on_trial in worked_on:
            worked_on = [self._on_trial]
        for request in worked_on:
            request.n_deaths += 1
        self.note_end()
        self._on_trial, self.waiting = None, frozenset()
        for request in self._requests.values():
            request.is_sent = False
        self._fail_each(lambda request: _end_of(request, failure))
        if self._requests and self.hands_over():
            log.warning("requests that go to other engines of this model: %d", len(self))
            self._fail_each(lambda request: _handed_over(request, str(failure)))
        elif self._requests:
            log.warning("requests that go to the next engine: %d", len(self))
        self._suspects = deque(request for request in self._requests.values() if request.n_deaths)
        self._held = deque(request for request in self._requests.values() if not request.n_deaths)
        self._holds_for_trials = True

    def note_ready(self) -> None:
        """Send the requests that are held to the new engine."""
        self._has_engine = True
        self._send_held()

    def _send_held(self) -> None:
        """Send in order. Of the suspects one is on trial at a time."""
        if not self._has_engine:
            return
        while self._on_trial is None and self._suspects:
            request = self._suspects.popleft()
            if self._send_first(request):
                self._on_trial = request
        self._holds_for_trials &= self._on_trial is not None
        while self._held and not self._holds_for_trials:
            self._send_first(self._held.popleft())

    def _send_first(self, request: RequestInFlight) -> bool:
        """Send a request that was held; False if it was dropped meanwhile."""
        if self._requests.get(request.question.id) is not request:
            return False
        self._send(request.resumed)
        request.is_sent = True
        return True

    def _end_trial(self, request: RequestInFlight) -> None:
        if request is self._on_trial:
            self._on_trial = None
            self._send_held()

    def _fail_each(self, error_of: Callable[[RequestInFlight], VramLLMError | None]) -> None:
        """End the requests for which there is an error."""
        for request in list(self._requests.values()):
            if (error := error_of(request)) is not None:
                del self._requests[request.question.id]
                request.settle(error)


def is_called(own: str, request_id: str) -> bool:
    """Whether an id is a request's own, or that of the reply of which it is a sequence: "ID-0", "ID-1"."""
    reply, _, number = own.rpartition("-")
    return own == request_id or (reply == request_id and number.isdecimal() and len(number) <= _MOST_DIGITS)


def _handed_over(request: RequestInFlight, why: str) -> HandedOver:
    message = f"another engine was to answer this request ({why}), and none took it; send it again"
    return HandedOver(message, request.written, request.n_deaths)


def _end_of(request: RequestInFlight, failure: VramLLMError) -> VramLLMError | None:
    """The error that ends a request at the engine's death; None if it goes to the next engine."""
    if request.n_deaths >= MAX_DEATHS:
        log.error("request %s is refused: %d engines died of it", request.question.id, MAX_DEATHS)
        return PoisonRequest(
            f"the engine process died {MAX_DEATHS} times while it computed this request ({failure}), "
            "so it is not computed again"
        )
    if request.can_resume:
        return None
    return AnswerCutOff(
        f"the engine process died ({failure}) after it had begun this answer; only answers with a seed "
        "or at temperature 0 are continued, so send the request again"
    )
