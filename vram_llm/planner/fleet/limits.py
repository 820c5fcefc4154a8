"""Which models fit together: bytes of each device, devices that serve one program at a time, groups apart.

Each limit is a resource with a budget, of which every resident model takes its share. Models fit together if
no resource is over its budget.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vram_llm.planner.fleet.types import FleetPlan

MOST_SETS = 512  # maximal sets that are listed; further ones are not used
_BITS = 72  # of a resource in a packed demand: bytes of thousands of models, and a guard

Uses = Mapping[str, int]  # bytes by device id and "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The budgets of a fleet's devices, and the groups of devices and models of which one is in use."""

    budgets: Mapping[str, int]  # bytes by device id and "host"
    one_program: tuple[frozenset[str], ...] = ()  # groups of devices that serve one program at a time
    apart: tuple[frozenset[str], ...] = ()  # groups of models of which one is resident

    @classmethod
    def of(cls, plan: FleetPlan) -> "Limits":
        """The limits of a fleet's plan."""
        return cls(budgets=plan.budgets, one_program=plan.one_program, apart=plan.apart)

    @property
    def resources(self) -> list[int]:
        """The budget of each resource: devices in the order of `budgets`, then groups."""
        return [*self.budgets.values(), *[1] * (len(self.one_program) + len(self.apart))]

    def demand(self, name: str, uses: Sequence[Uses]) -> list[int]:
        """The share of each resource that a model takes; `uses` are those of its replicas."""
        n_bytes = [sum(each.get(device_id, 0) for each in uses) for device_id in self.budgets]
        programs = [sum(1 for each in uses if group & each.keys()) for group in self.one_program]
        return [*n_bytes, *programs, *(int(name in group) for group in self.apart)]


class _Unit(NamedTuple):
    """Models that are loaded and unloaded together, and their packed demand."""

    names: frozenset[str]
    demand: int


class FittingModels:
    """The models of a fleet with their demands: which of them fit together."""

    def __init__(self, limits: Limits, uses: Mapping[str, Sequence[Uses]]) -> None:
        """`uses` are those of each model's replicas, by its name."""
        self._limits, self._resources = limits, limits.resources
        self._demands = {name: limits.demand(name, each) for name, each in uses.items()}
        # Each resource has some bits of one number, the highest of which is a guard: it is set as long as no
        # more is taken than the budget. So a sum of demands is one addition, and its check one subtraction.
        guards = [1 << (_BITS - 1)] * len(self._resources)
        self._packed = {name: _packed(demand) for name, demand in self._demands.items()}
        self._guards, self._most = _packed(guards), _packed(guards) + _packed(self._resources)

    @classmethod
    def of(cls, plan: FleetPlan) -> "FittingModels":
        """The models of a fleet's plan."""
        uses = {model.spec.name: [replica.uses for replica in model.replicas] for model in plan.models}
        return cls(Limits.of(plan), uses)

    def fit(self, names: Iterable[str]) -> bool:
        """Whether these models fit together."""
        return self._is_within(sum(self._packed[name] for name in names))

    def excess(self, names: Iterable[str]) -> dict[str, int]:
        """Bytes over the budget of each device, by its id, and models too many in each group."""
        labels = [
            *self._limits.budgets,
            *(f"one program on {', '.join(sorted(group))}" for group in self._limits.one_program),
            *(f"one of {', '.join(sorted(group))}" for group in self._limits.apart),
        ]
        over = zip(labels, self._total(names), self._resources, strict=True)
        return {label: used - budget for label, used, budget in over if used > budget}

    def maximal_sets(self, together: Collection[frozenset[str]] = ()) -> tuple[frozenset[str], ...]:
        """All sets of models that fit together and to which no further one can be added.

        A set has all models of a `together` group, or none. Models that do not fit alone are in no set.
        At most MOST_SETS are found.
        """
        units = [
            _Unit(names, sum(self._packed[name] for name in names))
            for names in dict.fromkeys(united(together, self._demands).values())
        ]
        sets = (chosen for chosen in self._extended([], 0, units, []) if chosen)
        found = itertools.islice(sets, MOST_SETS)
        return tuple(frozenset[str]().union(*(unit.names for unit in chosen)) for chosen in found)

    def _extended(
        self, chosen: list["_Unit"], total: int, able: list["_Unit"], left_out: list["_Unit"]
    ) -> Iterator[list["_Unit"]]:
        """The maximal sets with all of `chosen`, some of `able` and none of `left_out`.

        `total` is the demand of `chosen`.
        """
        able = [unit for unit in able if self._is_within(total + unit.demand)]
        left_out = [unit for unit in left_out if self._is_within(total + unit.demand)]
        whole = total + sum(unit.demand for unit in able)
        if any(self._is_within(whole + unit.demand) for unit in left_out):
            return  # no set without it is maximal
        if self._is_within(whole):
            yield [*chosen, *able]
            return
        first, *others = able
        yield from self._extended([*chosen, first], total + first.demand, others, left_out)
        yield from self._extended(chosen, total, others, [*left_out, first])

    def _is_within(self, total: int) -> bool:
        """Whether no resource of a packed demand is over its budget."""
        return (self._most - total) & self._guards == self._guards

    def _total(self, names: Iterable[str]) -> list[int]:
        total = [0] * len(self._resources)
        for name in names:
            total = [a + b for a, b in zip(total, self._demands[name], strict=True)]
        return total


def _packed(amounts: Sequence[int]) -> int:
    """One number with an amount of each resource."""
    return sum(amount << (_BITS * index) for index, amount in enumerate(amounts))


def united(groups: Collection[frozenset[str]], names: Iterable[str]) -> dict[str, frozenset[str]]:
    """For each model, all that are loaded with it: groups with a common member are one."""
    unions = {name: frozenset([name]) for name in names}
    for group in groups:
        whole = frozenset(each for name in group for each in unions[name])
        unions |= dict.fromkeys(whole, whole)
    return unions
