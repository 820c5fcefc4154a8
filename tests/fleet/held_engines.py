"""Engines without processes, which load when a test lets them. test_real_fleet.py has real ones."""

import asyncio
from collections.abc import Callable

from tests.server.fake_engine import INFO
from vram_llm.engine.client import EngineClient
from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.errors import EngineDied, VramLLMError
from vram_llm.planner.types import Plan


class HeldEngine(EngineClient):
    """An engine that loads once `may_load` is set, or fails with `refusal`."""

    def __init__(self, plan: Plan, name: str, on_state: Callable[[EngineClient], None]) -> None:
        super().__init__(plan, name, on_state)
        self.may_load = asyncio.Event()
        self.refusal: VramLLMError | None = None
        self.n_drains = 0
        self.drain_failure: Exception | None = None
        self.end_failure: Exception | None = None

    def start(self) -> None:
        """Nothing: `ready` waits."""

    async def ready(self) -> ModelInfo:
        """Load."""
        await self.may_load.wait()
        if self.refusal is not None:
            self.die(self.refusal)
            raise self.refusal
        self.info = INFO
        self._set_state(EngineState.READY, "")
        return INFO

    async def drain(self, grace_s: float) -> None:
        """Count it, and fail with `drain_failure` if there is one."""
        self.n_drains += 1
        if self.drain_failure is not None:
            raise self.drain_failure
        await super().drain(grace_s)

    async def stop(self) -> None:
        """End, and fail with `end_failure` if there is one."""
        await super().stop()
        if self.end_failure is not None:
            raise self.end_failure

    def die(self, failure: VramLLMError | None = None) -> None:
        """End for good."""
        self.failure = failure or EngineDied("it died too often")
        self._set_state(EngineState.DEAD, str(self.failure))


class Engines:
    """Makes engines, and keeps them by name. `hold` are names of models whose loads wait."""

    def __init__(self) -> None:
        self.made: list[HeldEngine] = []
        self.hold: set[str] = set()
        self.refusals: dict[str, VramLLMError] = {}

    def __call__(self, plans: tuple[Plan, ...], name: str, on_state: Callable[[Engine], None]) -> HeldEngine:
        """A new engine."""
        engine = HeldEngine(plans[0], name, on_state)
        engine.refusal = self.refusals.get(name)
        if name not in self.hold:
            engine.may_load.set()
        self.made.append(engine)
        return engine

    def latest(self, name: str) -> HeldEngine:
        """The last engine that was made of a model."""
        return [engine for engine in self.made if engine._model_name == name][-1]
