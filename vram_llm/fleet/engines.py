"""The interface of an engine to a fleet, which starts and stops it."""

from collections.abc import Callable
from typing import Protocol

from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.model_info import ModelInfo
from vram_llm.errors import VramLLMError
from vram_llm.planner.types import Plan


class FleetEngine(Engine, Protocol):
    """An engine with its process. EngineClient implements it; so does a ReplicaSet of several."""

    @property
    def failure(self) -> VramLLMError | None:
        """The reason why its state is DEAD, if it was not stopped."""

    @property
    def load_fraction(self) -> float:
        """The part of the model that is loaded, 0 to 1."""

    def start(self) -> None:
        """Begin loading, in the background."""

    async def ready(self) -> ModelInfo:
        """Wait for the load. Raises the error it failed with."""

    async def ended(self) -> None:
        """Wait until its state is DEAD. Raises the error for which it is not started again, if any."""

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests; give those in flight `grace_s` to finish, then end them with EngineDied."""

    async def stop(self) -> None:
        """End the process and wait until it is gone, and its memory with it."""


MakeEngine = Callable[[tuple[Plan, ...], str, Callable[[Engine], None]], FleetEngine]
"""Makes the engine of a model by the plans of its replicas and its name.

The engine calls the function whenever its state changes. EngineClient runs one plan, ReplicaSet several.
"""
