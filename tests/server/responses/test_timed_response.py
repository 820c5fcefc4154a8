"""The prompt's progress and the answer's timings in a streamed response."""

import asyncio

import httpx

from tests.server.fake_engine import FakeEngine
from tests.server.responses.test_routes import events
from tests.server.test_waiting import waits

BODY = {"model": "", "input": "hi", "stream": True, "return_progress": True, "timings_per_token": True}


async def test_progress_and_timings(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    gate = asyncio.Event()
    gate.set()
    engine.script = waits(gate, 0, 3)
    received = events(await client.post("/v1/responses", json=BODY))
    progress = [event for event in received if "prompt_progress" in event]
    assert {event["type"] for event in progress} == {"response.in_progress"}
    steps = [event["prompt_progress"] for event in progress]
    assert [(step["total"], step["cache"], step["processed"]) for step in steps] == [
        (5, 1, 1),
        (5, 1, 3),
        (5, 1, 5),
    ]
    assert [event["sequence_number"] for event in received] == list(range(len(received)))
    timed = [event for event in received if "timings" in event]
    assert timed[-1]["type"] == "response.completed"
    assert "response.output_text.delta" in {event["type"] for event in timed}
    assert timed[-1]["timings"]["prompt_n"] == 4


async def test_neither_unasked(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    received = events(await client.post("/v1/responses", json={"model": "", "input": "hi", "stream": True}))
    assert not any(event.keys() & {"prompt_progress", "timings"} for event in received)
