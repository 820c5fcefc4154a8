"""A fleet with engines that have no process, for tests of several files."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.fleet.held_engines import Engines
from tests.patience import soon
from vram_llm.fleet.manager import Fleet
from vram_llm.planner.fleet.types import FleetPlan


@asynccontextmanager
async def running(plan: FleetPlan, engines: Engines, **options: Any) -> AsyncIterator[Fleet]:
    """A fleet whose models of the start are loaded. All engines have ended after the block."""
    fleet = Fleet(plan, make_engine=engines, **options)
    await fleet.start()
    await soon(fleet.ready())
    try:
        yield fleet
    finally:
        await soon(fleet.stop())
        assert all(engine.state == "dead" for engine in engines.made)


def states(fleet: Fleet) -> dict[str, str]:
    """The state of each model by its name."""
    return {model.name: model.state for model in fleet.snapshots()}


async def leased(fleet: Fleet, name: str) -> None:
    """A request that ends at once."""
    async with fleet.lease(name):
        pass
