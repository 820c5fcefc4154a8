"""An engine that keeps requests until the test answers them, in place of EngineClient in a ReplicaSet."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

from tests.fleet.speeds import estimate
from tests.planner.saved import saved_plan
from tests.server.fake_engine import INFO, FakeEngine
from vram_llm.engine import wire
from vram_llm.engine.adapters import Adapters
from vram_llm.engine.in_flight import RequestsInFlight
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.engine.request import EmbeddingRequest, FinishReason, Image, Request, TokenEvent
from vram_llm.engine.slot_order import SlotDone, SlotOrder
from vram_llm.engine.stats import EngineStats
from vram_llm.engine.unread_events import TakeEvent
from vram_llm.engine.wire import Embedded
from vram_llm.errors import EngineDied, VramLLMError


class ScriptedReplica:
    """Runs `parallel` requests; the others wait. Its plan predicts `step_s` for a step of one token."""

    def __init__(self, step_s: float = 0.01, parallel: int = 2) -> None:
        plan = saved_plan([], [], n_layers=4)
        context = replace(plan.context, parallel=parallel)
        self.plan = replace(plan, context=context, speed=estimate(step_s))
        self.state = EngineState.READY
        self.info: ModelInfo | None = INFO
        self.detail = ""
        self.adapters: Adapters | None = None
        self.warnings: tuple[str, ...] = ()
        self.activity = FakeEngine().activity
        self.stats = EngineStats()
        self.n_restarts = 0
        self.load_fraction = 1.0
        self.failure: VramLLMError | None = None
        self.refusal: VramLLMError | None = None  # of the next requests
        self.listeners: list[Callable[[], None]] = []
        self.in_flight = RequestsInFlight(lambda message: None)
        self.in_flight.note_ready()
        self.order: list[str] = []

    async def generate(self, request: Request, *, n_deaths: int = 0) -> AsyncGenerator[TokenEvent, None]:
        if self.refusal is not None:
            raise self.refusal
        events: asyncio.Queue[Any] = asyncio.Queue()
        self.order.append(request.id)
        self.in_flight.add(wire.Submit(request), events.put_nowait, n_deaths)
        self._note_waiting()
        try:
            while True:
                event = await events.get()
                if isinstance(event, VramLLMError):
                    raise event
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            self.in_flight.drop(request.id)
            self.order.remove(request.id)
            self._note_waiting()

    def finish(self, request_id: str, cached: int = 0) -> None:
        """The whole answer of a request."""
        self.in_flight.deliver(
            TokenEvent(id=request_id, token_ids=(1,), prompt_tokens=100, cached_tokens=cached,
                       completion_tokens=1, finish_reason=FinishReason.STOP)
        )  # fmt: skip

    def change(self, state: EngineState) -> None:
        self.state = state
        for on_change in self.listeners:
            on_change()

    def die(self) -> None:
        self.in_flight.note_death(EngineDied("signal 9"))
        self.change(EngineState.LOADING)

    def come_back(self) -> None:
        self.change(EngineState.READY)
        self.in_flight.note_ready()

    def _note_waiting(self) -> None:
        self.in_flight.waiting = frozenset(self.order[self.plan.context.parallel :])

    def offer_events(self, request_id: str, take: TakeEvent) -> None:
        """It offers none."""

    def cancel(self, request_id: str, client: str | None) -> bool:
        return self.in_flight.cancel(request_id, client)

    def seconds_until_done(self, n: int, client: str) -> float:
        return float(n)

    def queue_s(self, request_id: str) -> float:
        return 0.25

    async def embed(self, request: EmbeddingRequest, *, n_deaths: int = 0) -> Embedded:
        if self.refusal is not None:
            raise self.refusal
        return Embedded(request.id, b"", [len(text) for text in request.inputs])

    async def tokenize(
        self,
        text: str,
        *,
        add_special: bool,
        parse_special: bool,
        images: tuple[Image, ...] = (),
        n_deaths: int = 0,
    ) -> list[int]:
        return list(text.encode())

    async def pieces(self, tokens: list[int], *, n_deaths: int = 0) -> list[bytes]:
        return [bytes([token]) for token in tokens]

    async def order_slot(self, order: SlotOrder) -> SlotDone:
        return SlotDone(order.id)

    def start(self) -> None:
        """Nothing: it is loaded."""

    async def ready(self) -> ModelInfo:
        assert self.info is not None
        return self.info

    async def ended(self) -> None:
        """At once."""

    async def drain(self, grace_s: float) -> None:
        """Nothing is kept."""

    async def stop(self) -> None:
        self.change(EngineState.DEAD)
