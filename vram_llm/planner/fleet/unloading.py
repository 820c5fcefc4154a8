"""Which models are unloaded when another one is asked for, and how long that takes.

The least valuable models are unloaded, of which the others leave enough memory on the devices needed. A
model's value is the load time that unloading it is expected to cost: load time / time since its last request.
Values of different priorities are not compared: no number of models of a lower priority is worth one of a
higher.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vram_llm.machine.types import Source
from vram_llm.planner.fleet.limits import FittingModels, united
from vram_llm.planner.fleet.types import FleetPlan

_LEAST_IDLE_S = 1.0
_TRUST = tuple(Source)  # most trusted first


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentValue:
    """What a resident model is worth."""

    priority: int = 0
    idle_s: float = 0.0  # since its last request
    load_s: float | None = None  # measured, or predicted; None: unknown, as a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """What happens if a model is asked for while others are resident."""

    asked: str
    resident: frozenset[str]
    loaded: frozenset[str]  # `asked`, and models that are always resident with it
    unloaded: frozenset[str]
    seconds: float | None  # of the loads, predicted; None: unknown
    basis: Source  # of the seconds: the least trusted of their rates


_Worth = tuple[float, ...]  # sums of costs by priority, the highest first; then the number of models


def unload_for(
    plan: FleetPlan,
    resident: Collection[str],
    wanted: str,
    values: Mapping[str, ResidentValue] | None = None,
    keep: Collection[str] = (),
) -> frozenset[str] | None:
    """The models of `resident` to unload before `wanted` is loaded; None if it does not fit with `keep`.

    Models without a value in `values` have that of the plan, as if they had just been asked for. `keep` are
    models that must stay. Models of a `together` group are unloaded together.
    """
    unions = united(plan.together, (model.spec.name for model in plan.models))
    loaded, fitting = unions[wanted], FittingModels.of(plan)
    here, stays = frozenset(resident), frozenset(keep)
    units = dict.fromkeys(unions[name] & here for name in resident if name not in loaded)
    kept = loaded.union(*(unit for unit in units if unit & stays))
    if not fitting.fit(kept):
        return None
    known = {name: (values or {}).get(name) or planned_value(plan, name) for name in resident}
    priorities = sorted({value.priority for value in known.values()}, reverse=True)

    def worth(unit: frozenset[str]) -> _Worth:
        own = [known[name] for name in unit]
        sums = (sum(_cost(each) for each in own if each.priority == priority) for priority in priorities)
        return (*sums, len(unit))

    movable = sorted(((worth(unit), unit) for unit in units if not unit & stays), key=_most_valuable_first)
    nothing = (0.0,) * (len(priorities) + 1)
    _, unloaded = _least_worth(fitting, kept, movable, nothing, None)
    return unloaded


def planned_value(plan: FleetPlan, name: str) -> ResidentValue:
    """The value of a model that was just asked for, by the plan."""
    model = plan[name]
    return ResidentValue(priority=model.spec.priority, load_s=_load_s(plan, [name]))


def swap_table(plan: FleetPlan) -> tuple[Swap, ...]:
    """The swap of each model with each maximal set of models without it."""
    unions = united(plan.together, (model.spec.name for model in plan.models))
    swaps = []
    for model in plan.models:
        asked = model.spec.name
        for resident in plan.sets:
            if asked in resident:
                continue
            unloaded = unload_for(plan, resident, asked)
            assert unloaded is not None  # nothing has to stay
            loaded = unions[asked] - resident
            ways = [way for name in loaded for way in plan[name].ways]
            swaps.append(
                Swap(
                    asked=asked,
                    resident=resident,
                    loaded=loaded,
                    unloaded=unloaded,
                    seconds=_load_s(plan, loaded),
                    basis=max((way.load_basis for way in ways), key=_TRUST.index),
                )
            )
    return tuple(swaps)


def _least_worth(
    fitting: FittingModels,
    kept: frozenset[str],
    movable: Sequence[tuple[_Worth, frozenset[str]]],
    spent: _Worth,
    best: tuple[_Worth, frozenset[str]] | None,
) -> tuple[_Worth, frozenset[str]]:
    """The least valuable units of `movable` without which the others fit with `kept`, and their worth.

    `spent` is the worth of units that are unloaded already, and `best` the best answer so far.
    """
    if fitting.fit(kept.union(*(unit for _, unit in movable))):
        found = (spent, frozenset[str]())
        return found if best is None or spent < best[0] else best
    (worth, unit), *others = movable
    if fitting.fit(kept | unit):
        best = _least_worth(fitting, kept | unit, others, spent, best)
    without = tuple(a + b for a, b in zip(spent, worth, strict=True))
    if best is None or without < best[0]:
        found = _least_worth(fitting, kept, others, without, None)
        if best is None or found[0] < best[0]:
            best = (found[0], found[1] | unit)
    return best


def _most_valuable_first(valued: tuple[_Worth, frozenset[str]]) -> tuple[list[float], list[str]]:
    worth, unit = valued
    return [-part for part in worth], sorted(unit)


def _cost(value: ResidentValue) -> float:
    load_s = 1.0 if value.load_s is None else value.load_s
    return load_s / max(value.idle_s, _LEAST_IDLE_S)


def _load_s(plan: FleetPlan, names: Iterable[str]) -> float | None:
    """Seconds of loading these models one after the other; None if one is unknown. Replicas load together."""
    total = 0.0
    for name in names:
        seconds = [way.load_s for way in plan[name].ways if way.load_s is not None]
        if len(seconds) < len(plan[name].ways):
            return None
        total += max(seconds)
    return total
