"""The app over a fake engine: in process, and behind a real uvicorn on a free port of the loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from tests.server.fake_engine import FakeEngine
from vram_llm.server.app import create_app
from vram_llm.server.config import ServerConfig
from vram_llm.server.engine_protocol import Engine
from vram_llm.server.run import http_protocol

Connect = Callable[..., httpx.AsyncClient]


def app_of(engine: Engine, **options: Any) -> FastAPI:
    """The app; keyword arguments are create_app's, and the others ServerConfig's."""
    own = {name: options.pop(name) for name in ("hosts", "clock", "lifespan") if name in options}
    return create_app(engine, ServerConfig(**options), **own)


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def connect(engine: FakeEngine) -> AsyncIterator[Connect]:
    """Makes a client of the app; keyword arguments are those of `app_of`."""
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app_of(engine, clock=lambda: 1234.5, **options))
            client = httpx.AsyncClient(transport=transport, base_url="http://test")
            stack.push_async_exit(client)
            return client

        yield make


@pytest.fixture
async def client(connect: Connect) -> httpx.AsyncClient:
    return connect()


@asynccontextmanager
async def listening(engine: Engine, **options: Any) -> AsyncIterator[str]:
    """The base URL of a real server, without a path."""
    app = app_of(engine, **options)
    config = uvicorn.Config(
        app, port=0, http=http_protocol(), log_level="warning", lifespan="off", timeout_graceful_shutdown=1
    )  # so that a stream that is never freed fails its test, and does not hang it
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)  # between two looks
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def url(engine: FakeEngine) -> AsyncIterator[str]:
    async with listening(engine) as base:
        yield base
