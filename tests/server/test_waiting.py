"""Connections that wait long: headers at once, comments in streams, white space before whole answers."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.patience import soon
from tests.server.fake_engine import FakeEngine, Script, Step, says
from tests.server.live import http_client, listening
from vram_llm.engine.request import Request, TokenEvent
from vram_llm.errors import ContextExceeded

CHAT = {"model": "", "messages": [{"role": "user", "content": "hi"}]}
STREAMS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {"model": "", "prompt": "hi", "stream": True}),
    ("/v1/messages", {**CHAT, "max_tokens": 9, "stream": True}),
    ("/v1/responses", {"model": "", "input": "hi", "stream": True}),
)


def accepted(request: Request, done: int = 0) -> TokenEvent:
    """The event of a prompt of five tokens, of which `done` are computed."""
    return TokenEvent(id=request.id, prompt_tokens=5, cached_tokens=min(done, 1), prompt_done=done)


def waits(gate: asyncio.Event, *before: int, error: Exception | None = None) -> Script:
    """Progress events, then a wait for `gate`, then an answer, or `error`."""

    def script(request: Request) -> Sequence[Step]:
        answer: Sequence[Step] = says("Hello")(request) if error is None else [error]
        return [*(accepted(request, done) for done in before), gate, *answer]

    return script


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_silent_stream_gets_comments(path: str, body: dict[str, Any]) -> None:
    gate = asyncio.Event()
    engine = FakeEngine(waits(gate))  # which does not even accept the request
    async with (
        listening(engine, sse_ping_interval_s=0.02) as url,
        http_client() as client,
        client.stream("POST", url + path, json=body) as reply,
    ):
        lines = []
        async for line in reply.aiter_lines():
            lines.append(line)
            if lines.count(": waiting") == 3:
                gate.set()
    data = [line for line in lines if line and not line.startswith(":")]
    assert "Hello" in "".join(data)
    assert all(line.startswith(("data: ", "event: ")) for line in data)


async def test_an_interval_of_0_sends_no_comments(engine: FakeEngine) -> None:
    async with listening(engine, sse_ping_interval_s=0) as url, http_client() as client:
        reply = await client.post(url + "/v1/chat/completions", json={**CHAT, "stream": True})
    assert reply.text.startswith("data: ")


@pytest.mark.parametrize(("path", "body"), STREAMS)
@pytest.mark.parametrize("progress", [(), (0, 3)])
async def test_a_refusal_before_the_first_text_has_its_status(
    progress: tuple[int, ...], path: str, body: dict[str, Any]
) -> None:
    gate = asyncio.Event()
    gate.set()
    engine = FakeEngine(waits(gate, *progress, error=ContextExceeded("too long", "messages")))
    async with listening(engine) as url, http_client() as client:
        reply = await client.post(url + path, json=body)
    assert reply.status_code == 400
    assert "too long" in reply.json()["error"]["message"]


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_late_refusal_ends_the_stream(path: str, body: dict[str, Any]) -> None:
    def script(request: Request) -> Sequence[Step]:
        return [*says("Hello")(request)[:1], ContextExceeded("too long", "messages")]

    async with listening(FakeEngine(script)) as url, http_client() as client:
        reply = await client.post(url + path, json=body)
    assert reply.status_code == 200
    assert "too long" in reply.text
    assert "[DONE]" not in reply.text


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_whole_answer_keeps_its_connection_alive(path: str, body: dict[str, Any]) -> None:
    gate = asyncio.Event()
    engine = FakeEngine(waits(gate))
    async with (
        listening(engine, sse_ping_interval_s=0.02) as url,
        http_client() as client,
        client.stream("POST", url + path, json={**body, "stream": False}) as reply,
    ):
        received = b""
        async for piece in reply.aiter_raw():
            received += piece
            if len(received) > 2:
                gate.set()
    assert received.startswith(b"\n\n\n{")
    assert "Hello" in json.dumps(json.loads(received))


async def test_an_error_after_white_space_breaks_the_connection_off() -> None:
    gate = asyncio.Event()
    engine = FakeEngine(waits(gate, error=ContextExceeded("too long", "messages")))
    async with (
        listening(engine, sse_ping_interval_s=0.02) as url,
        http_client() as client,
        client.stream("POST", url + "/v1/chat/completions", json=CHAT) as reply,
    ):
        pieces = aiter(reply.aiter_raw())
        received = await anext(pieces)
        gate.set()
        with suppress(httpx.RemoteProtocolError):
            async for piece in pieces:
                received += piece
            pytest.fail("the answer came to an end")
    assert "too long" in json.loads(received)["error"]["message"]


async def test_a_client_that_goes_away_while_it_waits_is_noticed() -> None:
    engine = FakeEngine(waits(asyncio.Event()))
    async with listening(engine, sse_ping_interval_s=0.02) as url:
        for stream in (True, False):
            engine.some_cancelled.clear()
            async with http_client() as client:
                request = client.stream("POST", url + "/v1/chat/completions", json={**CHAT, "stream": stream})
                async with request as reply:
                    await anext(reply.aiter_raw())
            await soon(engine.some_cancelled.wait())


def chunks(text: str) -> list[dict[str, Any]]:
    """The data of a stream's events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("path", "body"), STREAMS[:2])
async def test_progress_of_the_prompt(path: str, body: dict[str, Any]) -> None:
    gate = asyncio.Event()
    gate.set()
    engine = FakeEngine(waits(gate, 0, 3))
    async with listening(engine) as url, http_client() as client:
        asked = chunks((await client.post(url + path, json={**body, "return_progress": True})).text)
        plain = chunks((await client.post(url + path, json=body)).text)
    progress = [chunk["prompt_progress"] for chunk in asked if "prompt_progress" in chunk]
    assert [(p["total"], p["cache"], p["processed"]) for p in progress] == [(5, 1, 1), (5, 1, 3), (5, 1, 5)]
    assert all(p["time_ms"] >= 0 for p in progress)
    assert len(asked) == len(plain) + 3
    assert engine.requests[0].reports_progress


@pytest.mark.parametrize(("path", "body"), STREAMS[:2])
async def test_timings_at_the_end(path: str, body: dict[str, Any]) -> None:
    """As in llama-server they are in the last chunk of each stream that has a choice."""
    engine = FakeEngine(says("Hello", " world", "!"))
    async with listening(engine) as url, http_client() as client:
        streamed = chunks((await client.post(url + path, json=body)).text)
    assert ["timings" in chunk for chunk in streamed] == [False] * (len(streamed) - 1) + [True]
    assert streamed[-1]["timings"]["predicted_n"] == 3


@pytest.mark.parametrize(("path", "body"), STREAMS[:2])
async def test_timings_of_each_token(path: str, body: dict[str, Any]) -> None:
    engine = FakeEngine(says("Hello", " world", "!"))
    async with listening(engine) as url, http_client() as client:
        asked = {**body, "timings_per_token": True, "stream_options": {"include_usage": True}}
        streamed = chunks((await client.post(url + path, json=asked)).text)
        whole = await client.post(url + path, json={**body, "stream": False, "timings_per_token": True})
        plain = await client.post(url + path, json={**body, "stream": False})
    is_chat = path.endswith("chat/completions")  # whose first chunk only begins the message
    assert ["timings" in chunk for chunk in streamed] == [not is_chat] + [True] * (len(streamed) - 1)
    counts = [chunk["timings"]["predicted_n"] for chunk in streamed[is_chat:]]
    assert counts == sorted(counts)
    assert (counts[-1], whole.json()["timings"]["predicted_n"]) == (3, 3)
    assert whole.json()["timings"]["prompt_n"] == 5
    assert plain.json()["timings"].items() >= {"predicted_n": 3, "prompt_n": 5, "cache_n": 0}.items()
