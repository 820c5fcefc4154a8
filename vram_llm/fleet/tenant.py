"""One model of a fleet: its engine, its leases and the requests that wait for it."""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field, replace

from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.errors import VramLLMError
from vram_llm.fleet.engines import FleetEngine
from vram_llm.fleet.residency import Phase, Standing
from vram_llm.fleet.snapshots import FleetModel, ModelState
from vram_llm.planner.fleet.types import FleetWay, PackedModel
from vram_llm.planner.types import Plan

RETRY_S = 5.0  # after a load that failed, requests get its error without another load
_DEFAULT_LOAD_S = 5.0  # of a model whose load was not predicted
_DEFAULT_LEASE_S = 5.0
_WEIGHT = 0.3  # of the newest observation in an average
_LEAST_LEFT = 0.1  # of a lease that is longer than expected already


@dataclass(slots=True, eq=False)
class Lease:
    """A request's hold on an engine."""

    engine: FleetEngine
    began: float


@dataclass(slots=True, eq=False)
class Waiter:
    """A request without a lease. `granted` gets the lease."""

    since: float
    granted: "asyncio.Future[Lease]"


def _mixed(average: float | None, observed: float) -> float:
    return observed if average is None else (1 - _WEIGHT) * average + _WEIGHT * observed


@dataclass(slots=True, eq=False)
class LeaseTimes:
    """Averages of a model's requests: how long a lease takes, and how much later the next request comes."""

    _lease_s: float | None = None
    _gap_s: float | None = None
    _came_at: float | None = None

    def note_request(self, now: float) -> None:
        """A request has come."""
        if self._came_at is not None:
            self._gap_s = _mixed(self._gap_s, now - self._came_at)
        self._came_at = now

    def note_lease(self, seconds: float) -> None:
        """A lease has ended."""
        self._lease_s = _mixed(self._lease_s, seconds)

    @property
    def are_steady(self) -> bool:
        """Whether requests come before those before them have ended."""
        return self._gap_s is not None and self._gap_s < (self._lease_s or _DEFAULT_LEASE_S)

    def drain_s(self, ages_s: list[float]) -> float:
        """The expected time until leases of these ages have ended."""
        whole_s = self._lease_s or _DEFAULT_LEASE_S
        return max((max(whole_s - age, _LEAST_LEFT * age) for age in ages_s), default=0.0)


@dataclass(slots=True, eq=False)
class Tenant:
    """A model and its place. Times are those of time.monotonic."""

    packed: PackedModel
    ways: tuple[FleetWay, ...]  # of its replicas; not the packed ones after other programs took memory
    phase: Phase = Phase.ABSENT
    engine: FleetEngine | None = None
    info: ModelInfo | None = None
    failure: VramLLMError | None = None  # of the last load
    failed_at: float = 0.0
    is_asleep: bool = False
    is_gone: bool = False  # the configuration no longer has it
    wanted_since: float | None = None  # the operator, or the start, asks for it
    why_ordered_out: str = ""  # the operator, or another plan, unloads it
    why_drained: str = ""
    drained_at: float = 0.0
    is_cut_off: bool = False  # it has drained for too long
    began_at: float = 0.0  # of the load in progress
    loaded_at: float = 0.0
    last_used: float = 0.0
    n_loads: int = 0
    n_ends: int = 0  # of loads
    load_s: float | None = None  # measured
    waiters: deque[Waiter] = field(default_factory=deque)
    leases: set[Lease] = field(default_factory=set)  # of the engine that runs
    times: LeaseTimes = field(default_factory=LeaseTimes)

    @classmethod
    def of(cls, packed: PackedModel) -> "Tenant":
        """The model before its first load."""
        return cls(packed, packed.ways)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.packed.spec.name

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans of its replicas."""
        return tuple(way.plan for way in self.ways)

    @property
    def is_draining(self) -> bool:
        """Whether its leases have time to end."""
        return self.phase is Phase.DRAINING and not self.is_cut_off

    # -- requests --------------------------------------------------------------------------------

    def begin_lease(self, now: float) -> Lease:
        """A new lease of the model, which is resident."""
        assert self.engine is not None
        self.leases.add(lease := Lease(self.engine, now))
        return lease

    def end_lease(self, lease: Lease, now: float) -> None:
        """A lease has ended; one of an earlier engine is not counted."""
        if lease in self.leases:
            self.leases.discard(lease)
            self.times.note_lease(now - lease.began)
            self.last_used = now

    def grant_all(self, now: float) -> None:
        """Give all that wait a lease."""
        while self.waiters:
            if not (granted := self.waiters.popleft().granted).done():
                granted.set_result(self.begin_lease(now))

    def abandon(self, waiter: Waiter, now: float) -> None:
        """A request waits no more, or has gone before it took its lease."""
        with contextlib.suppress(ValueError):
            self.waiters.remove(waiter)
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self.end_lease(granted.result(), now)

    def fail_waiters(self, error: VramLLMError) -> None:
        """End all requests that wait with `error`."""
        while self.waiters:
            if not (granted := self.waiters.popleft().granted).done():
                granted.set_exception(error)

    # -- life ------------------------------------------------------------------------------------

    def take(self, packed: PackedModel) -> None:
        """Load by these plans."""
        self.ways = packed.ways

    def note_loaded(self, now: float) -> None:
        """The engine is ready."""
        self.phase, self.loaded_at, self.last_used = Phase.RESIDENT, now, now
        self.load_s = now - self.began_at
        self.n_loads += 1
        self.wanted_since = None
        self.grant_all(now)

    def note_failed(self, error: VramLLMError, now: float) -> None:
        """The engine could not be loaded, or has ended for good."""
        self.note_gone()
        self.failure, self.failed_at, self.wanted_since = error, now, None
        self.fail_waiters(error)

    def note_gone(self) -> None:
        """The engine has ended. The next load is by the plan."""
        self.phase, self.engine, self.is_cut_off, self.why_ordered_out = Phase.ABSENT, None, False, ""
        self.leases.clear()
        self.n_ends += 1
        self.take(self.packed)

    # -- policy ----------------------------------------------------------------------------------

    @property
    def expected_load_s(self) -> float:
        """Of its next load: as measured, else as predicted."""
        if self.load_s is not None:
            return self.load_s
        predicted = [way.load_s for way in self.packed.ways if way.load_s is not None]
        return sum(predicted) if predicted else _DEFAULT_LOAD_S

    def standing(self, now: float, partners: frozenset[str]) -> Standing:
        """The model as the policy sees it."""
        spec, load_s = self.packed.spec, self.expected_load_s
        waits = [waiter.since for waiter in self.waiters]
        waits += [] if self.wanted_since is None else [self.wanted_since]
        if self.phase is Phase.LOADING:
            load_s = max(load_s - (now - self.began_at), _LEAST_LEFT * load_s)
        return Standing(
            name=self.name,
            phase=self.phase,
            partners=partners,
            priority=spec.priority,
            min_residency_s=spec.min_residency_s,
            ttl_s=spec.ttl_s,
            load_s=load_s,
            drain_s=self.times.drain_s([now - lease.began for lease in self.leases]),
            loaded_at=self.loaded_at,
            last_used=self.last_used,
            n_leases=len(self.leases),
            waiting_since=min(waits, default=None),
            is_ordered_out=bool(self.why_ordered_out),
        )

    # -- facts -----------------------------------------------------------------------------------

    @property
    def state(self) -> ModelState:
        """The state that others see."""
        match self.phase:
            case Phase.LOADING:
                return ModelState.LOADING
            case Phase.RESIDENT:
                is_ready = self.engine is not None and self.engine.state is EngineState.READY
                return ModelState.RESIDENT if is_ready else ModelState.LOADING
            case Phase.DRAINING | Phase.STOPPING:
                return ModelState.UNLOADING
        if self.waiters or self.wanted_since is not None:
            return ModelState.QUEUED
        if self.failure is not None:
            return ModelState.FAILED
        return ModelState.SLEEPING if self.is_asleep else ModelState.UNLOADED

    @property
    def detail(self) -> str:
        """One phrase about the state."""
        if self.phase in (Phase.DRAINING, Phase.STOPPING):
            return self.why_drained
        if self.phase is Phase.ABSENT:
            return str(self.failure or "")
        return self.engine.detail if self.engine is not None else ""

    def snapshot(self, now: float) -> FleetModel:
        """The model as it is now."""
        is_used = bool(self.leases) or not self.n_loads
        return FleetModel(
            name=self.name,
            aliases=self.packed.spec.aliases,
            state=self.state,
            detail=self.detail,
            why=self.packed.why,
            devices=tuple(dict.fromkeys(device for plan in self.plans for device in plan.used)),
            bytes_by_device=replace(self.packed, ways=self.ways).uses,
            load_fraction=0.0 if self.engine is None else self.engine.load_fraction,
            waiting=len(self.waiters),
            in_flight=len(self.leases),
            idle_s=None if is_used else now - self.last_used,
            n_loads=self.n_loads,
            load_s=self.load_s if self.load_s is not None else self.expected_load_s,
            info=self.info,
        )
