"""Which models fit together: bytes of each device, devices that serve one program at a time, groups apart.

Each limit is a resource with a budget, of which every resident model takes its share. Models fit together if
no resource is over its budget.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vram_llm.planner.fleet.types import FleetPlan

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


class FittingModels:
    """The models of a fleet with their demands: which of them fit together."""

    def __init__(self, limits: Limits, uses: Mapping[str, Sequence[Uses]]) -> None:
        """`uses` are those of each model's replicas, by its name."""
        self._limits, self._resources = limits, limits.resources
        self._demands = {name: limits.demand(name, each) for name, each in uses.items()}

    @classmethod
    def of(cls, plan: FleetPlan) -> "FittingModels":
        """The models of a fleet's plan."""
        uses = {model.spec.name: [way.uses for way in model.ways] for model in plan.models}
        return cls(Limits.of(plan), uses)

    def fit(self, names: Iterable[str]) -> bool:
        """Whether these models fit together."""
        return not self.excess(names)

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
        """
        units = dict.fromkeys(united(together, self._demands).values())
        sets = self._extended([], list(units), [])
        return tuple(frozenset().union(*chosen) for chosen in sets if chosen)

    def _extended(
        self, chosen: list[frozenset[str]], able: list[frozenset[str]], left_out: list[frozenset[str]]
    ) -> Iterator[list[frozenset[str]]]:
        """The maximal sets with all of `chosen`, some of `able` and none of `left_out`."""
        able = [unit for unit in able if self._fit_units([*chosen, unit])]
        left_out = [unit for unit in left_out if self._fit_units([*chosen, unit])]
        if any(self._fit_units([*chosen, *able, unit]) for unit in left_out):
            return  # no set without it is maximal
        if self._fit_units([*chosen, *able]):
            yield [*chosen, *able]
            return
        first, *others = able
        yield from self._extended([*chosen, first], others, left_out)
        yield from self._extended(chosen, others, [*left_out, first])

    def _fit_units(self, units: Iterable[frozenset[str]]) -> bool:
        return self.fit(name for unit in units for name in unit)

    def _total(self, names: Iterable[str]) -> list[int]:
        total = [0] * len(self._resources)
        for name in names:
            total = [a + b for a, b in zip(total, self._demands[name], strict=True)]
        return total


def united(groups: Collection[frozenset[str]], names: Iterable[str]) -> dict[str, frozenset[str]]:
    """For each model, all that are loaded with it: groups with a common member are one."""
    unions = {name: frozenset([name]) for name in names}
    for group in groups:
        whole = frozenset(each for name in group for each in unions[name])
        unions |= dict.fromkeys(whole, whole)
    return unions
