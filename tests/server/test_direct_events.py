"""Events that are written as they come: a client sees the same stream, over a real socket."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.server.fake_engine import FakeEngine, says
from tests.server.live import http_client, listening
from vram_llm.engine.request import Request, TokenEvent
from vram_llm.engine.unread_events import TakeEvent, UnreadEvents

TEXTS = ("Hello", ", ", "wide", " world", "\n", "!")
MESSAGES = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/responses": {"input": "hi"},
}


class OfferingEngine(FakeEngine):
    """Offers its events as the real client does. `n_taken` were taken."""

    def __init__(self) -> None:
        super().__init__(says(*TEXTS))
        self.n_taken = 0
        self.offered_to: TakeEvent | None = None

    def offer_events(self, request_id: str, take: TakeEvent) -> None:
        def counted(event: TokenEvent) -> bool:
            is_taken = take(event)
            self.n_taken += is_taken
            return is_taken

        self.offered_to = counted

    async def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        unread = UnreadEvents(lambda: pytest.fail("it is read"), self.offered_to)
        saying, ended = asyncio.create_task(self._say(request, unread)), False
        while not ended:
            event = await unread.take()
            assert isinstance(event, TokenEvent)
            ended = event.finish_reason is not None
            yield event
        await saying

    async def _say(self, request: Request, unread: UnreadEvents) -> None:
        await asyncio.sleep(0)  # the reader waits
        for event in (TokenEvent(id=request.id, prompt_done=3, prompt_tokens=5), *self.script(request)):
            assert isinstance(event, TokenEvent)
            unread.put(event)
            for _ in range(20):
                await asyncio.sleep(0)  # the reader waits again


async def _lines(engine: FakeEngine, path: str, more: dict[str, Any], **headers: str) -> list[str]:
    """The lines of a stream, without the ids and times that each request has for itself."""
    own = {"created", "created_at", "completed_at", "id", "item_id", "timings"}
    async with listening(engine, clock=lambda: 0.0) as url, http_client(url) as client:
        body = {"model": "tiny", "stream": True, **BODIES[path], **more}
        reply = await client.post(path, json=body, headers=headers)
    assert reply.status_code == 200
    return [_without(own, line) for line in reply.text.splitlines()]


def _without(names: set[str], line: str) -> str:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: strip(each) for name, each in value.items() if name not in names}
        return [strip(each) for each in value] if isinstance(value, list) else value

    start, colon, data = line.partition("data: ")
    return start + colon + (json.dumps(strip(json.loads(data))) if data.startswith("{") else data)


@pytest.mark.parametrize("path", list(BODIES))
async def test_a_stream_is_the_same(path: str) -> None:
    engine = OfferingEngine()
    assert await _lines(engine, path, {}) == await _lines(FakeEngine(says(*TEXTS)), path, {})
    assert engine.n_taken == len(TEXTS)  # progress, and all texts but the first one


@pytest.mark.parametrize(
    ("path", "more", "headers"),
    [
        ("/v1/completions", {"timings_per_token": True}, {}),
        ("/v1/completions", {}, {"x-conversation-id": "c"}),
        ("/v1/chat/completions", {"return_progress": True}, {}),
    ],
)
async def test_streams_whose_events_or_bytes_are_looked_at(
    path: str, more: dict[str, Any], headers: dict[str, str]
) -> None:
    engine = OfferingEngine()
    assert len(await _lines(engine, path, more, **headers)) > len(TEXTS)
    assert engine.n_taken == 0
