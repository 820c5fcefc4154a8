"""A fleet of three models without engines, and a client of its application."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.server.fleet.fake_fleet import FleetUnderTest
from tests.server.live import in_process


@pytest.fixture
async def served() -> FleetUnderTest:
    return FleetUnderTest()


@pytest.fixture
async def client(served: FleetUnderTest) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(served.app) as client:
        yield client
