"""When a model will be resident, by playing the policy of residency.py forward: for Retry-After."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vram_llm.fleet.residency import Decision, Fits, Phase, Standing, decide

_MOST_STEPS = 200
_STOP_S = 0.1  # for a process to end


@dataclass(frozen=True, slots=True)
class Wait:
    """The time until a request has its model."""

    least_s: float
    is_known: bool = True  # else it may be longer

    @property
    def known_s(self) -> float | None:
        """The time, or None."""
        return self.least_s if self.is_known else None


@dataclass(slots=True)
class _Play:
    """The models at a time in the future."""

    models: dict[str, Standing]
    now: float
    ends: dict[str, float]  # of loads, drains and stops

    def take(self, decision: Decision) -> None:
        """Begin the steps that were decided."""
        for name in decision.load:
            self._change(name, Phase.LOADING, self.models[name].load_s)
        for name, model in self.models.items():
            if model.phase is Phase.LOADING and name in decision.drain:
                self._change(name, Phase.STOPPING, _STOP_S)
            elif model.phase is Phase.RESIDENT and name in decision.drain:
                self._change(name, Phase.DRAINING, model.drain_s if model.n_leases else 0.0)
            elif model.phase is Phase.DRAINING and name not in decision.drain:
                self._change(name, Phase.RESIDENT, None)

    def pass_time(self, look_again_at: float | None) -> bool:
        """Go on to the next event, and let it happen. False: none comes."""
        times = [time for time in (*self.ends.values(), look_again_at) if time is not None]
        if not times:
            return False
        self.now = max(self.now, min(times))
        for name in [name for name, end in self.ends.items() if end <= self.now]:
            self._end(name)
        return True

    def _end(self, name: str) -> None:
        del self.ends[name]
        match self.models[name].phase:
            case Phase.LOADING:
                self.models[name] = replace(
                    self.models[name], loaded_at=self.now, last_used=self.now, n_leases=1, waiting_since=None
                )
                self._change(name, Phase.RESIDENT, None)
            case Phase.DRAINING:
                self.models[name] = replace(self.models[name], n_leases=0)
                self._change(name, Phase.STOPPING, _STOP_S)
            case Phase.STOPPING:
                self.models[name] = replace(self.models[name], is_ordered_out=False, is_load_void=False)
                self._change(name, Phase.ABSENT, None)
            case Phase.RESIDENT:  # its last request has ended
                self.models[name] = replace(self.models[name], n_leases=0, last_used=self.now)

    def _change(self, name: str, phase: Phase, seconds: float | None) -> None:
        self.models[name] = replace(self.models[name], phase=phase)
        self.ends.pop(name, None)
        if seconds is not None:
            self.ends[name] = self.now + seconds


def wait_for(
    name: str, standings: Iterable[Standing], fits: Fits, now: float, steady: frozenset[str] = frozenset()
) -> Wait:
    """The time until a request for `name` that comes now gets its model.

    It is not known if no event that is expected gives the model room, or not within _MOST_STEPS events.

    Models in `steady` get new requests before the last one has ended; the leases of others end after their
    `drain_s`. `load_s` of a model that is LOADING is the time that is left.
    """
    play = _Play({each.name: each for each in standings}, now, {})
    model = play.models[name]
    if model.waiting_since is None:
        play.models[name] = replace(model, waiting_since=now)
    for each in play.models.values():
        if each.phase is Phase.LOADING:
            play.ends[each.name] = now + each.load_s
        elif each.phase is Phase.DRAINING or (
            each.phase is Phase.RESIDENT and each.n_leases and each.name not in steady
        ):
            play.ends[each.name] = now + each.drain_s
        elif each.phase is Phase.STOPPING:
            play.ends[each.name] = now + _STOP_S
    for _ in range(_MOST_STEPS):
        if play.models[name].phase is Phase.RESIDENT:
            return Wait(play.now - now)
        decision = decide(play.models.values(), fits, play.now)
        if name not in decision.drain and play.models[name].phase is Phase.DRAINING:
            return Wait(play.now - now)
        play.take(decision)
        if not play.pass_time(decision.look_again_at):
            break
    return Wait(play.now - now, is_known=False)
