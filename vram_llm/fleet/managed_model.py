"""One model of a fleet: its engine, its leases and the requests that wait for it.

An order to unload, and another plan for the model, wait for the right moment:

| phase | order to unload | another plan |
|---|---|---|
| absent | is done | is taken |
| loading | the load ends at once | the load ends at once, the next is by the new plan |
| resident | it drains, then it is unloaded | as an order; then it is loaded by the new plan |
| draining, stopping | it is unloaded, also if nobody needs its memory any more | as an order |

Requests that waited before an order to unload are answered first: the model is loaded for them, and then
unloaded. Later requests wait for its next load, and it stays. An order to load takes an order to unload back
while the model is absent or loading.
"""

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field, replace

from vram_llm.engine.activity import EngineActivity
from vram_llm.engine.model_info import EngineState, ModelInfo
from vram_llm.errors import VramLLMError
from vram_llm.fleet.engines import FleetEngine
from vram_llm.fleet.model_history import after_end, with_history
from vram_llm.fleet.residency import Phase, Standing
from vram_llm.fleet.retries import retry_wait_s
from vram_llm.fleet.snapshots import FleetModel, ModelState
from vram_llm.planner.fleet.types import PackedModel, PlacedReplica
from vram_llm.planner.types import Plan

_CALM_S = 60.0  # of being resident, after which the waits begin anew
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
        """Note a request, for the time between requests."""
        if self._came_at is not None:
            self._gap_s = _mixed(self._gap_s, now - self._came_at)
        self._came_at = now

    def note_lease(self, seconds: float) -> None:
        """Note the length of a lease that has ended."""
        self._lease_s = _mixed(self._lease_s, seconds)

    @property
    def are_steady(self) -> bool:
        """Whether the next request usually comes before the earlier ones have ended."""
        return self._gap_s is not None and self._gap_s < (self._lease_s or _DEFAULT_LEASE_S)

    def drain_s(self, ages_s: list[float]) -> float:
        """The expected time until leases of these ages have ended."""
        whole_s = self._lease_s or _DEFAULT_LEASE_S
        return max((max(whole_s - age, _LEAST_LEFT * age) for age in ages_s), default=0.0)


@dataclass(slots=True, eq=False)
class ManagedModel:
    """A model of the fleet with its engine, its place and its requests. Times are those of time.monotonic.

    methods: changes of state, for requests, orders and loads, each of a few lines.
    """

    packed: PackedModel
    replicas: tuple[PlacedReplica, ...]  # not those of `packed` after other programs took memory
    phase: Phase = Phase.ABSENT
    engine: FleetEngine | None = None
    info: ModelInfo | None = None
    failure: VramLLMError | None = None  # of the last load
    failed_at: float = 0.0
    n_failures: int = 0  # without _CALM_S of being resident between them
    is_asleep: bool = False
    is_gone: bool = False  # the configuration no longer has it
    wanted_since: float | None = None  # the operator, or the start, asks for it
    why_ordered_out: str = ""  # the operator unloads it, or the configuration no longer has it
    ordered_at: float = 0.0  # when it was ordered out
    is_outdated: bool = False  # its engine is by another plan than `packed`
    why_drained: str = ""
    drained_at: float = 0.0
    is_cut_off: bool = False  # it has drained for too long
    load: "asyncio.Task[None] | None" = None  # in progress
    began_at: float = 0.0  # of the load in progress
    loaded_at: float = 0.0
    out_since: float | None = None  # when its engine died, while it is started again
    last_used: float = 0.0
    n_loads: int = 0
    load_s: float | None = None  # measured
    history: EngineActivity | None = None  # the counts of engines that have ended
    waiters: deque[Waiter] = field(default_factory=deque)
    leases: set[Lease] = field(default_factory=set)  # of the engine that runs
    times: LeaseTimes = field(default_factory=LeaseTimes)

    @classmethod
    def of(cls, packed: PackedModel) -> "ManagedModel":
        """The model before its first load."""
        return cls(packed, packed.replicas)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.packed.spec.name

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans of its replicas."""
        return tuple(replica.plan for replica in self.replicas)

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
        """End a lease. One of an earlier engine does not count."""
        if lease in self.leases:
            self.leases.discard(lease)
            self.times.note_lease(now - lease.began)
            self.last_used = now

    def grant_all(self, now: float) -> None:
        """Give each waiting request a lease."""
        while self.waiters:
            if not (granted := self.waiters.popleft().granted).done():
                granted.set_result(self.begin_lease(now))

    def abandon(self, waiter: Waiter, now: float) -> None:
        """Forget a request that no longer waits, and end the lease if it was granted one meanwhile."""
        with contextlib.suppress(ValueError):
            self.waiters.remove(waiter)
        self._end_order_if_done()
        granted = waiter.granted
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            self.end_lease(granted.result(), now)

    def fail_waiters(self, error: VramLLMError) -> None:
        """Raise `error` in each waiting request."""
        while self.waiters:
            if not (granted := self.waiters.popleft().granted).done():
                granted.set_exception(error)
        self._end_order_if_done()

    # -- life ------------------------------------------------------------------------------------

    def want(self, now: float) -> None:
        """Ask for a load, as a request does. Takes back an order to unload that has not begun."""
        if self.phase in (Phase.ABSENT, Phase.LOADING):
            self.why_ordered_out = ""
        if self.phase is not Phase.RESIDENT and self.wanted_since is None:
            self.wanted_since = now

    def order_out(self, why: str, now: float, *, sleeps: bool = False) -> None:
        """Order to unload the model, once no request is lost by it."""
        self.wanted_since, self.is_asleep = None, sleeps
        self.why_ordered_out, self.ordered_at = why, now
        self._end_order_if_done()

    def change(self, packed: PackedModel, now: float, *, is_alike: bool) -> None:
        """Take another plan. Unless it `is_alike`, a loaded engine ends, and another one is loaded."""
        self.packed = packed
        if self.is_gone and not self.is_outdated:  # its removal from the configuration is taken back
            self.why_ordered_out = ""
        self.is_gone = False
        if is_alike:
            return
        self.failure = self.load_s = None
        if self.phase is Phase.ABSENT:
            self.take(packed)
            return
        if self.phase in (Phase.LOADING, Phase.RESIDENT) and not self.why_ordered_out:
            self.wanted_since = self.wanted_since or now
        self.is_outdated = True

    def note_drain(self, why: str, phase: Phase, now: float) -> None:
        """Note that the engine drains: because of an order, a changed plan, or else `why`."""
        self.phase, self.drained_at = phase, now
        changed = "the configuration has changed" if self.is_outdated else ""
        self.why_drained = self.why_ordered_out or changed or why

    def note_load_began(self, now: float) -> None:
        """Note that a load begins."""
        self.phase, self.began_at, self.is_asleep, self.failure = Phase.LOADING, now, False, None

    def take(self, packed: PackedModel) -> None:
        """Take the plans of `packed` for the next load."""
        self.replicas = packed.replicas

    def note_loaded(self, now: float) -> None:
        """Note that the engine is ready, and grant the waiting requests."""
        self.phase, self.loaded_at, self.last_used = Phase.RESIDENT, now, now
        self.out_since = None
        self.load_s = now - self.began_at
        self.n_loads += 1
        self.wanted_since = None
        self.grant_all(now)

    def note_engine_state(self, now: float) -> None:
        """Note since when the resident engine does not work; None while it works."""
        is_out = self.phase is Phase.RESIDENT and self.state is not ModelState.RESIDENT
        self.out_since = (now if self.out_since is None else self.out_since) if is_out else None

    def note_failed(self, error: VramLLMError, now: float) -> None:
        """Note a failed load, or an engine that ended. Waiting requests fail, unless another plan follows."""
        is_outdated = self.is_outdated
        self.note_gone(now)
        if not is_outdated:
            self.n_failures += 1
            self.failure, self.failed_at, self.wanted_since = error, now, None
            error.retry_after_s = self.retry_in_s(now)
            self.fail_waiters(error)

    def note_gone(self, now: float) -> None:
        """Note that the engine has ended. The next load is by the plans of `packed`."""
        if self.phase is not Phase.LOADING and now - self.loaded_at >= _CALM_S:
            self.n_failures = 0
        self.phase, self.is_cut_off, self.is_outdated = Phase.ABSENT, False, False
        if self.engine is not None:
            self.history = after_end(with_history(self.engine.activity, self.history))
        self.engine = None
        self.leases.clear()
        self.take(self.packed)
        self._end_order_if_done()

    def _end_order_if_done(self) -> None:
        """End an order to unload if nothing is loaded and no request waits that is older."""
        if self.phase is Phase.ABSENT and not any(each.since <= self.ordered_at for each in self.waiters):
            self.why_ordered_out = ""

    # -- policy ----------------------------------------------------------------------------------

    @property
    def is_leaving(self) -> bool:
        """Whether the engine has to end, even if requests wait for the model."""
        return bool(self.why_ordered_out) or self.is_outdated

    @property
    def is_load_void(self) -> bool:
        """Whether nobody needs the load in progress any more."""
        is_idle = not self.waiters and self.wanted_since is None
        return self.phase is Phase.LOADING and (self.is_outdated or (bool(self.why_ordered_out) and is_idle))

    def retry_in_s(self, now: float) -> float:
        """Seconds until a request may try a load again after a failed one; 0: now."""
        if self.failure is None:
            return 0.0
        return max(self.failed_at + retry_wait_s(self.n_failures) - now, 0.0)

    @property
    def expected_load_s(self) -> float:
        """Seconds of the next load, measured or else predicted. Replicas load at the same time."""
        if self.load_s is not None:
            return self.load_s
        predicted = [replica.load_s for replica in self.packed.replicas if replica.load_s is not None]
        return max(predicted, default=_DEFAULT_LOAD_S)

    def standing(self, now: float, partners: frozenset[str]) -> Standing:
        """The facts of the model that the policy needs (residency.py)."""
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
            is_ordered_out=self.is_leaving,
            is_load_void=self.is_load_void,
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

    @property
    def activity(self) -> EngineActivity | None:
        """Its work now, and the counts of all its engines; None: it had none."""
        return self.history if self.engine is None else with_history(self.engine.activity, self.history)

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
            bytes_by_device=replace(self.packed, replicas=self.replicas).uses,
            load_fraction=0.0 if self.engine is None else self.engine.load_fraction,
            waiting=len(self.waiters),
            in_flight=len(self.leases),
            idle_s=None if is_used else now - self.last_used,
            n_loads=self.n_loads,
            load_s=self.load_s if self.load_s is not None else self.expected_load_s,
            info=self.info,
        )
