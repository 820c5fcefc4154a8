"""One of several engines of a model, with what is known of it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from vram_llm.engine.in_flight import RequestsInFlight
from vram_llm.engine.model_info import EngineState
from vram_llm.engine.request import EmbeddingRequest, Image, Request, TokenEvent
from vram_llm.engine.stats import EngineStats
from vram_llm.engine.wire import Embedded
from vram_llm.fleet.engines import FleetEngine
from vram_llm.fleet.prefix_index import PrefixIndex
from vram_llm.fleet.replica_speed import StepCostMeter
from vram_llm.fleet.retries import retry_wait_s
from vram_llm.planner.types import Plan


class ReplicaEngine(FleetEngine, Protocol):
    """One of several engines. EngineClient is one."""

    @property
    def plan(self) -> Plan: ...

    @property
    def stats(self) -> EngineStats:
        """Of the engine that runs, after its last full step."""

    @property
    def n_restarts(self) -> int: ...

    @property
    def in_flight(self) -> RequestsInFlight: ...

    @property
    def listeners(self) -> list[Callable[[], None]]:
        """Called whenever `state` or `detail` change."""

    def generate(self, request: Request, *, n_deaths: int = 0) -> AsyncGenerator[TokenEvent, None]: ...

    async def embed(self, request: EmbeddingRequest, *, n_deaths: int = 0) -> Embedded: ...

    async def tokenize(
        self,
        text: str,
        *,
        add_special: bool,
        parse_special: bool,
        images: tuple[Image, ...] = (),
        n_deaths: int = 0,
    ) -> list[int]: ...

    async def pieces(self, tokens: list[int], *, n_deaths: int = 0) -> list[bytes]: ...


@dataclass(slots=True, eq=False)
class Replica:
    """An engine, the prompts that it probably holds, and the cost of its steps."""

    engine: ReplicaEngine
    meter: StepCostMeter
    index: PrefixIndex = field(default_factory=PrefixIndex)
    n_requests: int = 0  # that it was given
    n_failures: int = 0  # times that it became DEAD since it worked
    retry: asyncio.TimerHandle | None = None  # starts the engine again
    _before: EngineState | None = None  # when it was last looked at

    @property
    def is_ready(self) -> bool:
        """Whether its engine works now."""
        return self.engine.state is EngineState.READY

    @property
    def takes_requests(self) -> bool:
        """Whether its engine works, or holds requests until it is started again."""
        return self.is_ready or (self.engine.state is EngineState.LOADING and self.engine.info is not None)

    @property
    def parallel(self) -> int:
        """Sequences that run at once."""
        return self.engine.plan.context.parallel

    @property
    def waiting(self) -> frozenset[str]:
        """Ids of its requests that no engine works on."""
        return self.engine.in_flight.all_waiting

    @property
    def name(self) -> str:
        """The devices of its plan."""
        return ", ".join(self.engine.plan.used) or "the processor"

    @property
    def retry_s(self) -> float:
        """Seconds until an engine that is DEAD is started again."""
        return retry_wait_s(self.n_failures)

    def note_state(self) -> bool:
        """The engine's state or detail has changed. True if it has just become DEAD.

        A new engine holds nothing, and its counts begin anew.
        """
        before, self._before = self._before, self.engine.state
        if before is self._before:
            return False
        if self.is_ready:
            self.index.clear()
            self.meter.restart()
            self.n_failures = 0
        self.n_failures += self._before is EngineState.DEAD
        return self._before is EngineState.DEAD

    def end_retry(self) -> None:
        """Do not start the engine again."""
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """A replica as others see it."""

    devices: tuple[str, ...]  # ids of its plan's devices
    state: EngineState
    detail: str
    n_running: int
    n_waiting: int
    n_requests: int  # that it was given since the start
    step_s: float | None  # of a step: its fixed time, and that of each token; None: not known yet
    token_s: float | None
    is_measured: bool  # else the two are predicted
