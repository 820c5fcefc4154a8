"""Which models of a fleet are loaded and unloaded next. Policy alone: times come from the caller, in seconds.

Requests for models that are not resident are served in the order of the oldest one of each model. The model
that is first chooses whom it replaces, and keeps that claim: a later one is only loaded in memory that the
first one leaves over. So each other model comes before it once at most, and no request waits for ever.

A model that others want is unloaded at once if it is idle, and otherwise after its minimum residency. A
model is idle if its last request ended a quarter of a load ago: else a client that sends one request after
the other would pay a load for each.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from vram_llm.planner.fleet.unloading import ResidentValue, least_valuable

LOADS_PER_RESIDENCY = 10  # a minimum that is longer is cut: loads then take a tenth of the time
_IDLE_LOADS = 0.25  # a follow-up request is awaited so long, in load times
_MOST_IDLE_S = 2.0

Fits = Callable[[frozenset[str]], bool]
"""Whether models of these names may be resident together."""


class Phase(StrEnum):
    """The state of a model's engines, as far as memory is concerned."""

    ABSENT = "absent"
    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"  # resident, and new requests wait
    STOPPING = "stopping"  # its processes end


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A model as the policy sees it."""

    name: str
    phase: Phase = Phase.ABSENT
    partners: frozenset[str] = frozenset()  # models that are loaded and unloaded with it
    priority: int = 0
    min_residency_s: float = 30.0  # see FleetModelSpec
    ttl_s: float | None = None
    load_s: float = 1.0  # expected
    drain_s: float = 0.0  # until its leases have ended, expected
    loaded_at: float = 0.0
    last_used: float = 0.0  # the end of the last lease, or of the load
    n_leases: int = 0
    waiting_since: float | None = None  # of the oldest request without a lease
    is_ordered_out: bool = False  # the operator unloads it, or another plan does
    is_load_void: bool = False  # nobody needs the load in progress any more

    @property
    def is_busy(self) -> bool:
        """Whether requests use it or wait for it."""
        return self.n_leases > 0 or self.waiting_since is not None

    @property
    def protected_until(self) -> float:
        """The time from which other models may replace it."""
        end = self.loaded_at + min(self.min_residency_s, LOADS_PER_RESIDENCY * self.load_s)
        if self.n_leases:
            return end
        return min(end, self.last_used + min(_IDLE_LOADS * self.load_s, _MOST_IDLE_S))

    @property
    def expires_at(self) -> float | None:
        """When its time to live is over, if no request comes; None: never."""
        if self.ttl_s is None or self.phase is not Phase.RESIDENT or self.is_busy:
            return None
        return self.last_used + self.ttl_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The next steps. A model that is DRAINING and in neither mapping serves again."""

    load: tuple[str, ...] = ()  # there is room for them now
    drain: Mapping[str, str]  # to be unloaded, with the reason; some may drain already
    look_again_at: float | None = None  # when time alone allows more


def decide(standings: Iterable[Standing], fits: Fits, now: float) -> Decision:
    """The next steps for all models."""
    models = {standing.name: standing for standing in standings}
    drain = {name: "it was ordered" for name, model in models.items() if _leaves(model)}
    times: list[float] = []
    for name, model in models.items():
        group = [models[partner] for partner in {name, *model.partners}]
        ends = [each.expires_at for each in group if each.phase is not Phase.ABSENT]
        if model.phase is Phase.RESIDENT and all(end is not None for end in ends):
            end = max(end for end in ends if end is not None)
            if end <= now:
                drain[name] = "its time to live is over"
            else:
                times.append(end)
    return _Allocation(models, fits, now, drain, times).decision()


def _leaves(model: Standing) -> bool:
    if model.phase is Phase.LOADING:
        return model.is_load_void
    return model.is_ordered_out and model.phase in (Phase.RESIDENT, Phase.DRAINING)


class _Allocation:
    """Memory given to the models that are waited for, one after the other."""

    def __init__(
        self,
        models: Mapping[str, Standing],
        fits: Fits,
        now: float,
        drain: dict[str, str],
        times: list[float],
    ) -> None:
        self._models, self._fits, self._now = models, fits, now
        self._drain, self._times = drain, times
        self._load: list[str] = []
        self._held = {name for name, model in models.items() if model.phase is not Phase.ABSENT}
        self._stays = {
            name
            for name in self._held - drain.keys()
            if models[name].phase is not Phase.STOPPING and not models[name].is_ordered_out
        }
        self._locked: set[str] = set()  # models of requests that are older

    def decision(self) -> Decision:
        """Serve all that wait, the oldest first."""
        waiting = [model for model in self._models.values() if model.waiting_since is not None]
        for model in sorted(waiting, key=lambda each: (each.waiting_since or 0.0, each.name)):
            self._serve(model)
        return Decision(
            load=tuple(self._load),
            drain=self._drain,
            look_again_at=min(self._times, default=None),
        )

    def _serve(self, model: Standing) -> None:
        group = {model.name, *model.partners}
        missing = group - self._stays
        if missing:
            victims = self._victims(frozenset(missing))
            if victims is None:
                return  # it waits for models of older requests
            self._stays -= victims
            self._replace(victims, model.name)
        self._stays |= group
        self._locked |= group
        absent = {name for name in missing if self._models[name].phase is Phase.ABSENT}
        if absent and absent == missing and self._fits(frozenset(self._held | absent)):
            self._load += sorted(absent, key=lambda name: (name != model.name, name))
            self._held |= absent

    def _victims(self, wanted: frozenset[str]) -> frozenset[str] | None:
        """The models to unload, with all their partners; None: too many are locked."""
        free = self._stays - self._locked
        groups = {frozenset({name, *self._models[name].partners} & self._stays) for name in free}
        stays = frozenset(self._stays)
        return least_valuable(
            [group for group in groups if not group & self._locked],
            lambda names: self._fits((stays - names) | wanted),
            {name: self._value(self._models[name]) for name in free},
        )

    def _value(self, model: Standing) -> ResidentValue:
        """A model that drains already is lost anyhow."""
        return ResidentValue(
            priority=model.priority,
            idle_s=0.0 if model.is_busy else max(self._now - model.last_used, 0.0),
            load_s=0.0 if model.phase is Phase.DRAINING else model.load_s,
            free_in_s=max(self._free_at(model) - self._now, 0.0),
        )

    def _free_at(self, model: Standing) -> float:
        """When it may begin to drain."""
        if model.phase is Phase.DRAINING:
            return self._now
        if model.phase is Phase.LOADING:  # it is protected from then on
            return self._now + model.load_s + model.min_residency_s
        return model.protected_until

    def _replace(self, victims: frozenset[str], wanted: str) -> None:
        """Drain all of `victims` once all may be unloaded."""
        if not victims:
            return
        if any(self._models[name].phase is Phase.LOADING for name in victims):
            return  # the end of the load is an event
        if (until := max(self._free_at(self._models[name]) for name in victims)) > self._now:
            self._times.append(until)
            victims = frozenset(name for name in victims if self._models[name].phase is Phase.DRAINING)
        for name in victims:
            self._drain.setdefault(name, f"{wanted} needs its memory")
