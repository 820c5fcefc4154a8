"""The fleet and the reading of its configuration, as the HTTP server sees them."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.engine_protocol import Engine
from vram_llm.fleet.snapshots import FleetEvent, FleetModel


class ServedFleet(Protocol):
    """Engines of several models. fleet.manager.Fleet implements it, and describes each method."""

    def lease(self, model: str) -> AbstractAsyncContextManager[Engine]: ...

    async def load(self, model: str) -> None: ...

    async def unload(self, model: str) -> None: ...

    async def sleep(self, model: str | None = None) -> None: ...

    def snapshot(self, model: str) -> FleetModel: ...

    def snapshots(self) -> tuple[FleetModel, ...]: ...

    def engine(self, model: str) -> Engine | None: ...

    def activity(self, model: str) -> EngineActivity | None: ...

    def events(self) -> AsyncIterator[FleetEvent]: ...


class RunningFleet(ServedFleet, Protocol):
    """A fleet that the server starts and ends."""

    async def start(self) -> None: ...

    async def drain(self, grace_s: float) -> None: ...

    async def stop(self) -> None: ...
