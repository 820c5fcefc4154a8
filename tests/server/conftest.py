"""The app over a fake engine: in process, and behind a real uvicorn on a free port of the loopback."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, get_args

import httpx
import pytest
from pydantic import TypeAdapter

from tests.server.fake_engine import FakeEngine
from tests.server.live import app_of, in_process, listening

Connect = Callable[..., httpx.AsyncClient]
_adapters: dict[tuple[object, ...], TypeAdapter[Any]] = {}


def _adapter_of(annotated: Any, **options: Any) -> TypeAdapter[Any]:
    """FastAPI's adapter of a field, made once for equal fields."""
    annotation, *metadata = get_args(annotated)
    key = (annotation, repr(metadata), repr(options))
    if key not in _adapters:
        _adapters[key] = TypeAdapter(annotated, **options)
    return _adapters[key]


@pytest.fixture(scope="session", autouse=True)
def adapters_made_once() -> Iterator[None]:
    """A thousand tests make applications with the same fields: nearly half of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastapi._compat.v2.TypeAdapter", _adapter_of)
        yield


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
