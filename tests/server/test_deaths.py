"""Every API over the real engine when its process dies: what was not streamed is answered all the same."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, engine_processes, running, write_f32
from tests.patience import soon, until
from tests.server.live import http_client, listening
from vram_llm.engine.client import EngineClient
from vram_llm.engine.restart_policy import RestartPolicy
from vram_llm.errors import EngineDied
from vram_llm.server import run
from vram_llm.server.config import ServerConfig
from vram_llm.server.sockets import bind_all, start_listening

pytestmark = pytest.mark.process

HI: dict[str, Any] = {"model": "", "messages": [{"role": "user", "content": "hi"}]}
REQUESTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", "max_tokens", HI),
    ("/v1/completions", "max_tokens", {"model": "", "prompt": "hi"}),
    ("/v1/messages", "max_tokens", HI),
    ("/v1/responses", "max_output_tokens", {"model": "", "input": "hi"}),
)


@pytest.fixture
async def engine(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> AsyncIterator[EngineClient]:
    plan = plan_on_cpu(write_f32(tmp_path / "f32.gguf"), n_ctx=16384, parallel=4, **EXACT)
    async with running(plan) as engine:
        yield engine


@pytest.fixture
async def client(engine: EngineClient) -> AsyncIterator[httpx.AsyncClient]:
    async with listening(engine) as url, http_client(url) as client:
        yield client


async def test_requests_that_have_not_streamed_are_answered(
    engine: EngineClient, client: httpx.AsyncClient
) -> None:
    """The engine is stopped, so that it has begun none of the eight when it is killed."""
    (process,) = engine_processes()
    process.suspend()
    bodies = [
        (path, {**body, limit: 16, "stream": stream})
        for path, limit, body in REQUESTS
        for stream in (False, True)
    ]
    replies = [asyncio.create_task(client.post(path, json=body)) for path, body in bodies]
    await until(lambda: len(engine.in_flight) == len(bodies), "all requests in flight")
    process.kill()
    for (path, body), reply in zip(bodies, await soon(asyncio.gather(*replies)), strict=True):
        assert reply.status_code == 200, path
        assert '"error":{' not in reply.text, path
        assert body["stream"] or json.loads(reply.text)


@pytest.mark.parametrize(("path", "limit", "body"), REQUESTS)
async def test_a_stream_that_has_begun_ends_with_an_error_event_or_continues(
    client: httpx.AsyncClient, path: str, limit: str, body: dict[str, Any]
) -> None:
    """One has no seed. The other is at temperature 0 and gives the text of a stream that nothing disturbs."""
    endless = {**body, limit: 12000, "stream": True, "ignore_eos": True, "temperature": 1}
    repeatable = {**endless, limit: 200, "temperature": 0}
    undisturbed = await client.post(path, json=repeatable)
    (process,) = engine_processes()
    async with (
        client.stream("POST", path, json=repeatable) as kept,
        client.stream("POST", path, json=endless) as lost,
    ):
        lines = [lost.aiter_lines(), kept.aiter_lines()]
        told = [await soon(_until_text(part)) for part in lines]
        process.kill()
        ends = [before + [line async for line in part] for before, part in zip(told, lines, strict=True)]
    assert "engine process died" in ends[0][-2] + ends[0][-1]
    assert '"error"' in "".join(ends[0][-4:])
    assert _texts(ends[1]) == _texts(undisturbed.text.splitlines())


async def test_the_server_ends_once_the_crashes_are_too_many(
    plan_on_cpu: PlanOnCpu,
) -> None:
    """The stream gets its error first. The command's exit code is the error's: 32."""
    engine = EngineClient(plan_on_cpu(n_ctx=16384), "tiny", restarts=RestartPolicy(max_crashes=0))
    (sock,) = bind_all("127.0.0.1", 0)
    start_listening([sock])
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with sock:
        serving = asyncio.create_task(run.serve(engine, [sock], ServerConfig()))
        await soon(engine.ready())
        async with http_client(url) as client:
            endless = {**HI, "max_tokens": 12000, "stream": True, "ignore_eos": True, "temperature": 1}
            async with client.stream("POST", "/v1/chat/completions", json=endless) as lost:
                lines = lost.aiter_lines()
                await soon(_until_text(lines))
                engine_processes()[0].kill()
                rest = [line async for line in lines]
        with pytest.raises(EngineDied, match="died 1 times within 10 minutes") as end:
            await soon(serving)
    assert "is not started again" in rest[-2] + rest[-1]
    assert end.value.exit_code == 32
    assert engine_processes() == []


async def _until_text(lines: AsyncIterator[str]) -> list[str]:
    """Lines up to the first with a text."""
    seen = []
    async for line in lines:
        seen.append(line)
        if _texts([line]):
            break
    return seen


def _texts(lines: list[str]) -> str:
    """The text of a stream of any of the APIs."""
    text = ""
    for line in lines:
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        for choice in event.get("choices", ()):
            delta = choice.get("delta", choice)
            text += delta.get("content") or delta.get("reasoning_content") or delta.get("text") or ""
        delta = event.get("delta")
        text += (
            delta
            if isinstance(delta, str)
            else (delta or {}).get("text", "") + (delta or {}).get("thinking", "")
        )
    return text
