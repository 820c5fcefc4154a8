"""Packs the models of a fleet: chooses a layout for each, with the least cost (packing_cost.py).

A descent from a greedy choice finds a good packing. Branch and bound then looks for a better one, and proves
that there is none if it ends within a number of steps, which small fleets never exceed.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from vram_llm.planner.fleet.layouts import Layout
from vram_llm.planner.fleet.limits import Limits
from vram_llm.planner.fleet.packing_cost import ModelToPack, PackingCost, Partial

_MOST_STEPS = 2000
_ROUNDING = 1e-9  # share of a cost below which two are equal


@dataclass(frozen=True, slots=True)
class Packing:
    """A layout for each model by name."""

    layouts: Mapping[str, Layout]
    cost: float
    is_proven: bool  # whether no choice of layouts costs less


def pack(
    models: Sequence[ModelToPack],
    limits: Limits,
    must_fit: Sequence[frozenset[str]] = (),
    alike: Sequence[frozenset[str]] = (),
) -> Packing:
    """The packing with the least cost. Every model must have a layout that fits alone.

    `must_fit` are groups of models that must be resident together; if that is impossible, the packing is the
    one that misses the fewest bytes. `alike` are groups of equal devices, among which layouts are symmetric.
    """
    ordered = sorted(models, key=lambda model: -min(sum(each.uses.values()) for each in model.layouts))
    search = _Search(PackingCost(ordered, limits, must_fit), alike)
    chosen, cost, is_proven = search.best()
    layouts = {model.name: model.layouts[index] for model, index in zip(ordered, chosen, strict=True)}
    return Packing({model.name: layouts[model.name] for model in models}, cost, is_proven)


class _Search:
    """Branch and bound over one layout for each model."""

    def __init__(self, cost: PackingCost, alike: Sequence[frozenset[str]]) -> None:
        self._cost, self._alike = cost, alike
        self._counts = [len(model.layouts) for model in cost.models]
        self._signatures = [[_signature(layout) for layout in model.layouts] for model in cost.models]
        self._steps = 0

    def best(self) -> tuple[tuple[int, ...], float, bool]:
        """The layouts by index, their cost, and whether it is proven to be the least."""
        chosen = self._greedy()
        chosen, least = self._descended(chosen)
        self._best, self._least = chosen, least
        self._branch(self._cost.start())
        return self._best, self._least, self._steps < _MOST_STEPS

    def _greedy(self) -> tuple[int, ...]:
        partial = self._cost.start()
        for count in self._counts:
            partial = min(
                (self._cost.extended(partial, layout) for layout in range(count)), key=lambda each: each.cost
            )
        return partial.chosen

    def _descended(self, chosen: tuple[int, ...]) -> tuple[tuple[int, ...], float]:
        """The choice after changes of single layouts, while they lower the cost."""
        least, is_changed = self._cost(chosen), True
        while is_changed:
            is_changed, before = False, self._cost.start()
            for index, count in enumerate(self._counts):
                for layout in range(count):
                    other = (*chosen[:index], layout, *chosen[index + 1 :])
                    if layout != chosen[index] and self._cost_from(before, other) < least * (1 - _ROUNDING):
                        chosen, least, is_changed = other, self._cost_from(before, other), True
                before = self._cost.extended(before, chosen[index])
        return chosen, least

    def _cost_from(self, partial: Partial, chosen: tuple[int, ...]) -> float:
        """The cost of `chosen`, which begins as `partial` does."""
        for layout in chosen[len(partial.chosen) :]:
            partial = self._cost.extended(partial, layout)
        return partial.cost

    def _branch(self, partial: Partial) -> None:
        index = len(partial.chosen)
        if index == len(self._counts):
            if partial.cost < self._least * (1 - _ROUNDING):
                self._best, self._least = partial.chosen, partial.cost
            return
        children = []
        for layout in self._distinct(partial.chosen, index):
            self._steps += 1
            if self._steps >= _MOST_STEPS:
                return
            child = self._cost.extended(partial, layout)
            if child.cost < self._least * (1 - _ROUNDING):
                children.append(child)
        for child in sorted(children, key=lambda child: child.cost):
            if child.cost < self._least * (1 - _ROUNDING):
                self._branch(child)

    def _distinct(self, chosen: tuple[int, ...], index: int) -> list[int]:
        """The layouts of a model that differ by more than an exchange of equal devices without models."""
        used = {
            device_id
            for model, layout in zip(self._cost.models, chosen, strict=False)
            for device_id in model.layouts[layout].uses
        }
        names = {device_id: group for group in self._alike for device_id in group - used}
        found: dict[Hashable, int] = {}
        for layout, signature in enumerate(self._signatures[index]):
            key = frozenset(
                tuple((names.get(device_id, device_id), n_bytes) for device_id, n_bytes in part)
                for part in signature
            )
            found.setdefault((key, len(signature)), layout)
        return list(found.values())


def _signature(layout: Layout) -> tuple[tuple[tuple[str, int], ...], ...]:
    """The devices of each replica with their bytes."""
    return tuple(tuple(option.uses.items()) for option in layout.options)
