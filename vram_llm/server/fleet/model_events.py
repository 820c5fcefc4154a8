"""GET /models/sse: changes of models as they happen, in llama-server's form."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from vram_llm.fleet.snapshots import FleetEvent, ModelState
from vram_llm.server.api_keys import ApiKey, current_key
from vram_llm.server.fleet.model_cards import router_status
from vram_llm.server.fleet.ports import ServedFleet
from vram_llm.server.fleet.routed_models import RoutedModels
from vram_llm.server.generation import cancel_and_wait
from vram_llm.server.sse import COMMENT, HEADERS

_MOST_BEHIND = 1024  # events that a client has not read
Event = dict[str, Any]


class ModelEvents:
    """Passes the fleet's events, and those of a reloaded configuration, to all clients that listen."""

    def __init__(self, fleet: ServedFleet, ping_s: float) -> None:
        self._fleet = fleet
        self._ping_s = ping_s
        self._listening: set[asyncio.Queue[Event | None]] = set()
        self._has_ended = False

    def announce_reload(self, removed: Iterable[str]) -> None:
        """The list of models has been made anew, without those of these names."""
        for name in removed:
            self._put({"model": name, "event": "model_remove"})
        self._put({"model": "*", "event": "models_reload"})

    def end(self) -> None:
        """End all streams: the server shuts down."""
        self._has_ended = True
        self._put(None)

    async def stream(self, models: RoutedModels, key: ApiKey) -> AsyncIterator[bytes]:
        """Server-sent events about models that the key may use, from now on."""
        if self._has_ended:
            return
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._listening.add(queue)
        pumping = asyncio.create_task(self._pump(queue))
        try:
            yield COMMENT  # the answer begins
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), self._ping_s or None)
                except TimeoutError:
                    yield COMMENT
                    continue
                if event is None:
                    return
                if _may_see(event["model"], models, key):
                    yield b"data: " + msgspec.json.encode(event) + b"\n\n"
        finally:
            self._listening.discard(queue)
            await cancel_and_wait(pumping)

    async def _pump(self, queue: asyncio.Queue[Event | None]) -> None:
        async for event in self._fleet.events():
            _offer(queue, _as_event(event))
        _offer(queue, None)

    def _put(self, event: Event | None) -> None:
        for queue in self._listening:
            _offer(queue, event)


def events_router(events: ModelEvents, models: RoutedModels) -> APIRouter:
    """The route of the stream."""
    router = APIRouter(tags=["models"])

    @router.get(
        "/models/sse",
        summary="Changes of models as server-sent events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def stream() -> StreamingResponse:
        headers = {name.decode(): value.decode() for name, value in HEADERS}
        return StreamingResponse(events.stream(models, current_key.get()), headers=headers)

    return router


def _as_event(event: FleetEvent) -> Event:
    data: Event = {"status": router_status(event.state), "state": event.state.value}
    if event.state is ModelState.LOADING:
        stages = {"stages": ["text_model"], "current": "text_model", "value": event.load_fraction}
        data["progress"] = stages
    if event.detail:
        data["detail"] = event.detail
    if event.state is ModelState.FAILED:
        data["failed"] = True
    return {"model": event.model, "event": "model_status", "data": data}


def _may_see(name: str, models: RoutedModels, key: ApiKey) -> bool:
    if name == "*" or key.models is None:
        return True
    try:
        return any(key.may_use(shown) for shown in models.named(name).shown_names)
    except KeyError:  # it is gone
        return key.may_use(name)


def _offer(queue: asyncio.Queue[Event | None], event: Event | None) -> None:
    """Put an event; the oldest is lost if its client reads none."""
    if queue.qsize() >= _MOST_BEHIND:
        queue.get_nowait()
    queue.put_nowait(event)
