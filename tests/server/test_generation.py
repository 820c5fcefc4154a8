"""A client that disconnects, over a real socket."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from starlette.types import Message

from tests.patience import PATIENCE_S, soon, until
from tests.server.fake_engine import FakeEngine, Script, says
from tests.server.live import http_client
from vram_llm.engine.request import Request, TokenEvent
from vram_llm.server import generation


class CountingEngine(FakeEngine):
    """Counts the events that are taken from it."""

    n_events = 0

    async def generate(self, request: Request) -> AsyncGenerator[TokenEvent, None]:
        async for event in super().generate(request):
            self.n_events += 1
            yield event


HI = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def says_then_waits(*texts: str) -> Script:
    """Texts, and then nothing for ever."""

    def script(request: Request) -> list[Any]:
        return [*says(*texts)(request)[:-1], asyncio.Event()]

    return script


@pytest.mark.parametrize("n", [1, 3])
async def test_leaving_a_stream_frees_its_sequences(url: str, engine: FakeEngine, n: int) -> None:
    engine.script = says_then_waits("one", "two")
    async with http_client() as client:
        body = {**HI, "stream": True, "n": n}
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if "two" in line:
                    break
            assert engine.cancelled == []
    await soon(engine.some_cancelled.wait())
    assert sorted(engine.cancelled) == sorted(request.id for request in engine.requests)
    assert len(engine.cancelled) == n


@pytest.mark.parametrize("texts", [(), ("one",)])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_before_the_answer(
    url: str, engine: FakeEngine, stream: bool, texts: tuple[str, ...]
) -> None:
    if stream and texts:
        texts = ("",)  # an event, but nothing to read after the first chunk
    engine.script = says_then_waits(*texts)
    async with http_client() as client:
        body = {**HI, "stream": stream}
        asking = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=body))
        await until(lambda: engine.requests != [], "a request")
        asking.cancel()
        await soon(engine.some_cancelled.wait())
    assert engine.cancelled == [engine.requests[0].id]


@pytest.mark.parametrize("leaves_in_work", [False, True])
async def test_work_ends_when_the_client_leaves_and_its_task_goes_on(leaves_in_work: bool) -> None:
    has_left, has_ended = asyncio.Event(), False

    async def receive() -> Message:
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def work() -> str:
        nonlocal has_ended
        if not leaves_in_work:
            return "done"
        try:
            has_left.set()
            await asyncio.Event().wait()  # for ever
        finally:
            await asyncio.sleep(0)  # its end may take a while
            has_ended = True
        raise AssertionError("it was not cancelled")

    assert await generation.while_connected(receive, work()) == (None if leaves_in_work else "done")
    assert has_ended == leaves_in_work
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # a cancellation that was left would come here


async def test_a_cancellation_from_elsewhere_goes_on_through_work() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    working = asyncio.create_task(generation.while_connected(receive, asyncio.sleep(PATIENCE_S)))
    await asyncio.sleep(0)  # it waits
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_others_go_on(url: str, engine: FakeEngine) -> None:
    engine.script = says_then_waits("one")
    async with http_client() as client:
        async with client.stream("POST", f"{url}/v1/chat/completions", json={**HI, "stream": True}) as left:
            assert left.status_code == 200
        engine.script = says("fine")
        reply = await client.post(f"{url}/v1/chat/completions", json=HI)
    assert reply.json()["choices"][0]["message"]["content"] == "fine"


async def test_events_of_choices_that_nobody_reads_are_left_with_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generation, "_MOST_AHEAD", 4)
    engine = CountingEngine(says(*["a"] * 100))
    requests = [Request(id=name, prompt="p") for name in "ab"]
    async with aclosing(generation.stream_events(engine, requests)) as events:
        await anext(events)
        for _ in range(1000):
            await asyncio.sleep(0)  # turns of the loop
        assert engine.n_events < 10
        assert len([event async for event in events]) == 201
