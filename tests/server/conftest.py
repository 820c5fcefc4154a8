"""The app over a fake engine: in process, and behind a real uvicorn on a free port of the loopback."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.server.fake_engine import FakeEngine
from tests.server.live import app_of, in_process, listening

Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def connect(engine: FakeEngine) -> AsyncIterator[Connect]:
    """Makes a client of the app; keyword arguments are those of `app_of`."""
    async with AsyncExitStack() as stack:

        def make(**options: Any) -> httpx.AsyncClient:
            client = in_process(app_of(engine, clock=lambda: 1234.5, **options))
            stack.push_async_exit(client)
            return client

        yield make


@pytest.fixture
async def client(connect: Connect) -> httpx.AsyncClient:
    return connect()


@pytest.fixture
async def url(engine: FakeEngine) -> AsyncIterator[str]:
    async with listening(engine) as base:
        yield base
