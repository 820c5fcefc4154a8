"""A fleet in simulated time: requests arrive, models load and drain as the policy decides."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vram_llm.fleet.forecast import Wait, wait_for
from vram_llm.fleet.residency import Fits, Phase, Standing, decide

STOP_S = 0.1


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """A request: when it comes, for which model, and how long its answer takes."""

    at: float
    model: str
    answer_s: float


@dataclass(slots=True)
class SimulatedFleet:
    """Runs `arrivals` to their end. All waits and loads are recorded."""

    models: dict[str, Standing]
    fits: Fits
    waits: list[tuple[Arrival, float]] = field(default_factory=list)
    loads: list[tuple[float, str]] = field(default_factory=list)
    unloads: list[tuple[float, Standing]] = field(default_factory=list)  # as they were when drains began
    forecasts: list[tuple[Arrival, Wait]] = field(default_factory=list)
    now: float = 0.0
    _events: list[tuple[float, int, str, str]] = field(default_factory=list)
    _queues: dict[str, list[Arrival]] = field(default_factory=dict)
    _ends: dict[str, list[float]] = field(default_factory=dict)  # of leases
    _timers: set[float] = field(default_factory=set)

    def run(self, arrivals: Sequence[Arrival], forecasts: bool = False) -> None:
        """Play all arrivals, until nothing happens any more."""
        pending = sorted(arrivals, reverse=True)
        while pending or self._events:
            if pending and (not self._events or pending[-1].at <= self._events[0][0]):
                arrival = pending.pop()
                self.now = max(self.now, arrival.at)
                if forecasts and self.models[arrival.model].phase is not Phase.RESIDENT:
                    wait = wait_for(arrival.model, self._standings(), self.fits, self.now)
                    self.forecasts.append((arrival, wait))
                self._arrive(arrival)
            else:
                self.now, _, kind, name = heapq.heappop(self._events)
                self._happen(kind, name)
            self._decide()

    def _arrive(self, arrival: Arrival) -> None:
        if self.models[arrival.model].phase is Phase.RESIDENT:
            self._serve(arrival)
        else:
            self._queues.setdefault(arrival.model, []).append(arrival)
            self._count(arrival.model)

    def _serve(self, arrival: Arrival) -> None:
        self.waits.append((arrival, self.now - arrival.at))
        self._ends.setdefault(arrival.model, []).append(self.now + arrival.answer_s)
        self._at(self.now + arrival.answer_s, "answered", arrival.model)
        self._count(arrival.model)

    def _happen(self, kind: str, name: str) -> None:
        model = self.models[name] if name else None
        match kind:
            case "answered":
                self._ends[name].remove(self.now)
                self._set(name, last_used=self.now)
            case "loaded":
                self._set(name, phase=Phase.RESIDENT, loaded_at=self.now, last_used=self.now)
                self._grant(name)
            case "stopped":
                self._set(name, phase=Phase.ABSENT)
        if name:
            self._count(name)
        del model

    def _decide(self) -> None:
        decision = decide(self._standings(), self.fits, self.now)
        for name, model in self.models.items():
            if model.phase is Phase.RESIDENT and name in decision.drain:
                self.unloads.append((self.now, model))
                self._set(name, phase=Phase.DRAINING)
            elif model.phase is Phase.DRAINING and name not in decision.drain:
                self._set(name, phase=Phase.RESIDENT)
                self._grant(name)
            if self.models[name].phase is Phase.DRAINING and not self._ends.get(name):
                self._set(name, phase=Phase.STOPPING)
                self._at(self.now + STOP_S, "stopped", name)
        for name in decision.load:
            assert self.models[name].phase is Phase.ABSENT
            self.loads.append((self.now, name))
            self._set(name, phase=Phase.LOADING)
            self._at(self.now + self.models[name].load_s, "loaded", name)
        held = frozenset(name for name, model in self.models.items() if model.phase is not Phase.ABSENT)
        assert self.fits(held), f"{sorted(held)} do not fit together"
        if (at := decision.look_again_at) is not None and at not in self._timers:
            assert at > self.now or decision.drain, "a look at the same time again"
            self._timers.add(at)
            self._at(at, "look", "")

    def _grant(self, name: str) -> None:
        for arrival in self._queues.pop(name, []):
            self._serve(arrival)
        self._count(name)

    def _standings(self) -> list[Standing]:
        return [
            replace(
                model,
                drain_s=max((end - self.now for end in self._ends.get(name, [])), default=0.0),
                load_s=self._left_s(name) if model.phase is Phase.LOADING else model.load_s,
            )
            for name, model in self.models.items()
        ]

    def _left_s(self, name: str) -> float:
        return (
            next(at for at, _, kind, whose in self._events if kind == "loaded" and whose == name) - self.now
        )

    def _count(self, name: str) -> None:
        queue = self._queues.get(name, [])
        self._set(
            name,
            n_leases=len(self._ends.get(name, [])),
            waiting_since=min((arrival.at for arrival in queue), default=None),
        )

    def _set(self, name: str, **changes: object) -> None:
        self.models[name] = replace(self.models[name], **changes)  # type: ignore[arg-type]  # names of fields

    def _at(self, at: float, kind: str, name: str) -> None:
        heapq.heappush(self._events, (at, len(self._events) + len(self.waits) * 1000, kind, name))
