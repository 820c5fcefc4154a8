"""The replicas of a model as one engine, as far as their lives and their facts are concerned."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.errors import EngineDied, VramLLMError
from vram_llm.fleet.replica import Replica, ReplicaEngine
from vram_llm.fleet.replica_activity import joint_activity, joint_info
from vram_llm.fleet.replica_speed import StepCostMeter, predicted_cost


class ReplicaGroup:
    """The engines of a model. Use from one event loop.

    `on_change` is called whenever the state or the detail of a replica changes.
    """

    def __init__(self, engines: Sequence[ReplicaEngine], on_change: Callable[[], None]) -> None:
        self.replicas = tuple(
            Replica(engine, StepCostMeter(predicted_cost(engine.plan.speed))) for engine in engines
        )
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._info: ModelInfo | None = None  # None: to be made
        self._is_ending = False
        for replica in self.replicas:
            replica.engine.listeners.append(partial(self._note_state, replica))
            replica.engine.in_flight.hands_over = partial(self._has_other, replica)

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to load all replicas, in the background."""
        for replica in self.replicas:
            replica.engine.start()

    async def ready(self) -> ModelInfo:
        """Wait until the first replica is loaded. Raises the error of the first one if all fail."""
        while (info := self.info) is None or self.state is not EngineState.READY:
            if self.state is EngineState.DEAD:
                raise self.failure or EngineDied("the engine is stopped")
            await self._change()
        return info

    async def ended(self) -> None:
        """Wait until all are DEAD. Raises the first one's failure if all have one."""
        while self.state is not EngineState.DEAD:
            await self._change()
        if (failure := self.failure) is not None:
            raise failure

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests; give those in flight `grace_s` to finish, then end them with EngineDied."""
        self._end_retries()
        await asyncio.gather(*(replica.engine.drain(grace_s) for replica in self.replicas))

    async def stop(self) -> None:
        """End all processes and wait until they are gone."""
        self._end_retries()
        await asyncio.gather(*(replica.engine.stop() for replica in self.replicas))

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _note_state(self, replica: Replica) -> None:
        if replica.note_state() and not self._is_ending:
            replica.end_retry()
            loop = asyncio.get_running_loop()
            replica.retry = loop.call_later(replica.retry_s, self._retry, replica)
        self._info = None
        self._changed.set()
        self._on_change()

    def _retry(self, replica: Replica) -> None:
        """Start an engine that has failed for good, while others go on."""
        if replica.engine.state is EngineState.DEAD and self.state is not EngineState.DEAD:
            replica.engine.start()

    def _end_retries(self) -> None:
        self._is_ending = True
        for replica in self.replicas:
            replica.end_retry()

    def _has_other(self, replica: Replica) -> bool:
        """Whether another replica works."""
        return any(other.is_ready for other in self.replicas if other is not replica)

    # -- facts -----------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """READY if a replica is, else LOADING if one is."""
        states = {replica.engine.state for replica in self.replicas}
        order = (EngineState.READY, EngineState.LOADING, EngineState.STOPPING)
        return next((state for state in order if state in states), EngineState.DEAD)

    @property
    def info(self) -> ModelInfo | None:
        """The facts about the model, with the slots of all replicas that were ever loaded."""
        if self._info is None:
            infos = [info for replica in self.replicas if (info := replica.engine.info) is not None]
            self._info = joint_info(infos) if infos else None
        return self._info

    @property
    def detail(self) -> str:
        """One phrase about `state`: that of the first replica in this state."""
        state = self.state
        return next((r.engine.detail for r in self.replicas if r.engine.state is state), "")

    @property
    def failure(self) -> VramLLMError | None:
        """The first replica's reason to be DEAD, if all have one."""
        failures = [replica.engine.failure for replica in self.replicas]
        return None if None in failures else failures[0]

    @property
    def load_fraction(self) -> float:
        """The loaded part of all replicas together, 0 to 1."""
        return sum(replica.engine.load_fraction for replica in self.replicas) / len(self.replicas)

    @property
    def n_restarts(self) -> int:
        """Restarts of all replicas."""
        return sum(replica.engine.n_restarts for replica in self.replicas)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the operator; one for each replica that does not work while others do."""
        found = [warning for replica in self.replicas for warning in replica.engine.warnings]
        if self.state is EngineState.READY:
            found += [
                f"the replica on {replica.name} does not answer requests: {replica.engine.detail}"
                for replica in self.replicas
                if not replica.is_ready
            ]
        return tuple(dict.fromkeys(found))

    @property
    def activity(self) -> EngineActivity:
        """The activity of all replicas together."""
        return joint_activity([replica.engine.activity for replica in self.replicas])
