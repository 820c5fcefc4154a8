"""Several engines of one model as one engine: requests go to the one that is expected to finish first.

Each request is submitted to a replica at once, so that each engine shares its slots between clients fairly.
A replica with a free slot takes requests that wait at another one. At the death of an engine its requests go
to the others as far as they can (see engine/in_flight.py); without others they wait for its restart. An
answer goes on after the tokens that are written: nothing of it is sent twice.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from vram_llm.engine.adapters import Adapters
from vram_llm.engine.client import EngineClient
from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.in_flight import HandedOver, is_called
from vram_llm.engine.plan_source import Replan
from vram_llm.engine.process import ProcessStarter
from vram_llm.engine.request import EmbeddingRequest, FinishReason, Image, Request, TokenEvent
from vram_llm.engine.restart_policy import RestartPolicy
from vram_llm.engine.slot_order import SlotDone, SlotOrder
from vram_llm.engine.unread_events import TakeEvent
from vram_llm.engine.wire import Embedded
from vram_llm.errors import EngineDied, Overloaded, RequestError
from vram_llm.fleet.engines import FleetEngine
from vram_llm.fleet.replica import Replica, ReplicaEngine, ReplicaStatus
from vram_llm.fleet.replica_group import ReplicaGroup
from vram_llm.fleet.replica_requests import ReplicatedRequests
from vram_llm.fleet.replica_router import Refusals, ReplicaRouter
from vram_llm.planner.types import Plan

_LEAST_TIME_S = 0.01  # of a request whose time is over, for its engine to end it
T = TypeVar("T")


class ReplicaSet(ReplicaGroup):
    """A model that is loaded several times. Use from one event loop.

    `on_state` is called with the set whenever the state or the detail of a replica changes.
    """

    def __init__(
        self, engines: Sequence[ReplicaEngine], on_state: Callable[["ReplicaSet"], None] = lambda _: None
    ) -> None:
        super().__init__(engines, self._note_change)
        self._requests = ReplicatedRequests()
        self._router = ReplicaRouter(self.replicas, self._requests)
        self._on_state = on_state
        self.adapters: Adapters | None = None

    def _note_change(self) -> None:
        self._on_state(self)
        self._router.even_out()

    def status(self) -> tuple[ReplicaStatus, ...]:
        """Each replica as it is now."""
        return tuple(self._status(i, replica) for i, replica in enumerate(self.replicas))

    def _status(self, index: int, replica: Replica) -> ReplicaStatus:
        cost, n_waiting = replica.meter.cost, len(replica.waiting)
        return ReplicaStatus(
            devices=replica.engine.plan.used,
            state=replica.engine.state,
            detail=replica.engine.detail,
            n_running=max(self._requests.n_at(index) - n_waiting, 0),
            n_waiting=n_waiting,
            n_requests=replica.n_requests,
            step_s=None if cost is None else cost.step_s,
            token_s=None if cost is None else cost.token_s,
            is_measured=replica.meter.is_measured,
        )

    # -- requests --------------------------------------------------------------------------------

    async def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        """Run a request, see engine.engine_protocol.Engine. Another replica may continue its answer."""
        deadline = None if request.max_time_s is None else time.monotonic() + request.max_time_s
        mine, refusals, is_whole = self._requests.begin(request), Refusals(), False
        try:
            while True:
                replica = self._router.place(mine, refusals)
                asked = mine.asked
                assert isinstance(asked, Request)
                if deadline is not None:
                    left_s = max(deadline - time.monotonic(), _LEAST_TIME_S)
                    asked = replace(asked, max_time_s=left_s)
                try:
                    async with aclosing(replica.engine.generate(asked, n_deaths=mine.n_deaths)) as events:
                        async for event in events:
                            self._router.note_event(mine, event)
                            is_whole = event.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
                            yield event
                    return
                except (EngineDied, Overloaded) as error:
                    self._router.note_refusal(mine, error, refusals)
        finally:
            self._router.end(mine, is_whole=is_whole)

    async def embed(self, request: EmbeddingRequest) -> Embedded:
        """The embeddings or scores of the request's inputs, see engine.engine_protocol.Engine."""
        mine, refusals = self._requests.begin(request), Refusals()
        try:
            while True:
                replica = self._router.place(mine, refusals)
                try:
                    return await replica.engine.embed(request, n_deaths=mine.n_deaths)
                except (EngineDied, Overloaded) as error:
                    self._router.note_refusal(mine, error, refusals)
        finally:
            self._router.end(mine, is_whole=False)

    async def tokenize(
        self, text: str, *, add_special: bool, parse_special: bool, images: tuple[Image, ...] = ()
    ) -> list[int]:
        """The token ids of `text`; -1 for each row of an image."""
        return await self._ask(
            lambda engine, n_deaths: engine.tokenize(
                text, add_special=add_special, parse_special=parse_special, images=images, n_deaths=n_deaths
            )
        )

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        """The bytes of each token."""
        return await self._ask(lambda engine, n_deaths: engine.pieces(tokens, n_deaths=n_deaths))

    async def order_slot(self, order: SlotOrder) -> SlotDone:
        """Refused: each replica has slots of its own. Raises RequestError."""
        raise RequestError(
            "this model has several replicas, each with slots of its own, so its slots are not saved, "
            "restored or erased; serve it once",
            "id_slot",
        )

    async def _ask(self, ask: Callable[[ReplicaEngine, int], Awaitable[T]]) -> T:
        """The answer to a question about the vocabulary, by the replica with fewest requests."""
        n_deaths, refusals = 0, Refusals()
        while True:
            index = min(self._router.candidates(refusals), key=self._requests.n_at)
            try:
                return await ask(self.replicas[index].engine, n_deaths)
            except HandedOver as error:
                n_deaths = error.n_deaths
            except Overloaded as error:
                refusals[index] = error

    def offer_events(self, request_id: str, take: TakeEvent) -> None:
        """Offers none: the router looks at each event."""

    def cancel(self, request_id: str, client: str | None) -> bool:
        """End a request, see engine.engine_protocol.Engine."""
        found = False
        for request in self._requests.in_flight.values():
            asked = request.asked
            if client in (None, asked.client) and is_called(asked.id, request_id):
                request.is_cancelled = found = True  # it may be on its way to another replica
        for replica in self.replicas:
            found |= replica.engine.cancel(request_id, client)
        return found

    def seconds_until_done(self, n: int, client: str) -> float:
        """The expected time until `n` sequences of a client have ended, in seconds."""
        at = {r.replica for r in self._requests.in_flight.values() if r.asked.client == client}
        replicas = [replica for i, replica in enumerate(self.replicas) if i in at] or self.replicas
        each = -(-n // len(replicas))
        return min(replica.engine.seconds_until_done(each, client) for replica in replicas)

    def queue_s(self, request_id: str) -> float:
        """How long a request in flight has waited for a free sequence, in seconds."""
        request = self._requests.in_flight[request_id]
        return self.replicas[request.replica].engine.queue_s(request_id)


def make_engine(
    plans: Sequence[Plan],
    name: str,
    on_state: Callable[[Engine], None] = lambda _: None,
    *,
    watchdog_s: float | None = None,
    replan: Replan | None = None,
    processes: ProcessStarter | None = None,
) -> FleetEngine:
    """The engine of a model by the plans of its replicas: an EngineClient, or a ReplicaSet of several.

    An engine that has loaded is started again after each death, later each time: the server has other models,
    so it does not end. The other arguments are EngineClient's.
    """

    def client(plan: Plan, on_state: Callable[[Engine], None] = lambda _: None) -> EngineClient:
        return EngineClient(
            plan,
            name,
            on_state,
            watchdog_s=watchdog_s,
            replan=replan,
            processes=processes,
            restarts=RestartPolicy(max_crashes=None),
        )

    if len(plans) == 1:
        return client(plans[0], on_state)
    return ReplicaSet([client(plan) for plan in plans], on_state)
