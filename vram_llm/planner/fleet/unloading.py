"""Which models are unloaded when another one is asked for, and how long that takes.

The least valuable models are unloaded, without which the others leave enough memory on the devices needed. A
model's value is the load time that unloading it is expected to cost: load time / time since its last request.
Values of different priorities are not compared: no number of models of a lower priority is worth one of a
higher. Plans and a fleet that runs (fleet/residency.py) choose by this rule.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from math import inf

from vram_llm.machine.types import Source
from vram_llm.planner.fleet.limits import FittingModels, united
from vram_llm.planner.fleet.types import FleetPlan

_MOST_TRIED = 12  # groups of models of which all sets are compared
_LEAST_IDLE_S = 0.1  # added to the time since the last request
_TRUST = tuple(Source)  # most trusted first


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentValue:
    """The facts by which resident models are ranked before one is unloaded."""

    priority: int = 0
    idle_s: float = 0.0  # since its last request
    load_s: float | None = None  # measured, or predicted; None: unknown, as a second
    free_in_s: float = 0.0  # the time until it may be unloaded; of equal priorities the sooner one leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """The models that are unloaded for another one, and the time that its load takes."""

    asked: str
    resident: frozenset[str]
    loaded: frozenset[str]  # `asked`, and models that are always resident with it
    unloaded: frozenset[str]
    seconds: float | None  # of the loads, predicted; None: unknown
    basis: Source  # of the seconds: the least trusted of their rates


_Worth = tuple[float, float, tuple[tuple[int, float], ...], int]


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
    return least_valuable(
        [unit for unit in units if not unit & stays],
        lambda unloaded: fitting.fit((loaded | here) - unloaded),
        known,
    )


def least_valuable(
    groups: Iterable[frozenset[str]],
    is_enough: Callable[[frozenset[str]], bool],
    values: Mapping[str, ResidentValue],
) -> frozenset[str] | None:
    """The union of some of `groups` that `is_enough` and is worth the least; None: all are too few.

    More than _MOST_TRIED groups are added by their worth until it is enough, and those that are not needed
    are left out again.
    """

    def worth(names: frozenset[str]) -> tuple[_Worth, list[str]]:
        return _worth(values[name] for name in names), sorted(names)

    ordered = sorted(groups, key=worth)
    rests = [frozenset[str]().union(*ordered[index:]) for index in range(len(ordered) + 1)]
    if not is_enough(rests[0]):
        return None
    if len(ordered) > _MOST_TRIED:
        return _greedy(ordered, is_enough)
    best = rests[0]

    def search(chosen: frozenset[str], index: int) -> None:
        """Try all unions of `chosen` with groups from `index` on that may be worth less than `best`."""
        nonlocal best
        if worth(chosen) > worth(best):
            return
        if is_enough(chosen):
            best = chosen
        elif index < len(ordered) and is_enough(chosen | rests[index]):
            search(chosen | ordered[index], index + 1)
            search(chosen, index + 1)

    search(frozenset(), 0)
    return best


def _greedy(ordered: list[frozenset[str]], is_enough: Callable[[frozenset[str]], bool]) -> frozenset[str]:
    chosen: list[frozenset[str]] = []
    for group in ordered:
        chosen.append(group)
        if is_enough(frozenset[str]().union(*chosen)):
            break
    for group in list(chosen[::-1]):
        rest = [other for other in chosen if other is not group]
        if is_enough(frozenset[str]().union(*rest)):
            chosen = rest
    return frozenset[str]().union(*chosen)


def _worth(values: Iterable[ResidentValue]) -> _Worth:
    """The worth of a set, compared from the first part on. More models are never worth less.

    The highest priority; the time until all may be unloaded; by priority, the highest first, the sum of
    values; the number of models.
    """
    known = sorted(values, key=lambda value: -value.priority)
    sums = tuple(
        (priority, sum(map(_cost, several)))
        for priority, several in groupby(known, lambda value: value.priority)
    )
    highest = sums[0][0] if sums else -inf
    return highest, max((value.free_in_s for value in known), default=0.0), sums, len(known)


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
            replicas = [replica for name in loaded for replica in plan[name].replicas]
            swaps.append(
                Swap(
                    asked=asked,
                    resident=resident,
                    loaded=loaded,
                    unloaded=unloaded,
                    seconds=_load_s(plan, loaded),
                    basis=max((replica.load_basis for replica in replicas), key=_TRUST.index),
                )
            )
    return tuple(swaps)


def _cost(value: ResidentValue) -> float:
    load_s = 1.0 if value.load_s is None else value.load_s
    return load_s / (value.idle_s + _LEAST_IDLE_S)


def _load_s(plan: FleetPlan, names: Iterable[str]) -> float | None:
    """Seconds of loading these models one after the other; None if one is unknown. Replicas load together."""
    total = 0.0
    for name in names:
        seconds = [replica.load_s for replica in plan[name].replicas if replica.load_s is not None]
        if len(seconds) < len(plan[name].replicas):
            return None
        total += max(seconds)
    return total
