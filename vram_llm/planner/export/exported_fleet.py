"""A fleet as other programs' configuration files need it: its models, each with llama-server's settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import prod

from vram_llm.errors import BadPlan
from vram_llm.planner.export.device_flags import exported_devices
from vram_llm.planner.export.llama_server import remarks
from vram_llm.planner.export.setting import Setting
from vram_llm.planner.types import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedModel:
    """A model with its place. `settings` are those of llama-server that no plan has: samplers, reasoning."""

    name: str
    plan: Plan
    aliases: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    priority: int = 0
    preload: bool = False  # resident at the start
    ttl_s: float | None = None
    load_s: float | None = None  # predicted
    n_replicas: int = 1  # in the fleet's plan; `plan` is that of the first
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFleet:
    """Models, and the maximal sets of their names that fit together."""

    models: tuple[ExportedModel, ...]
    sets: tuple[frozenset[str], ...]
    together: tuple[frozenset[str], ...] = ()

    def remarks(self) -> tuple[str, ...]:
        """Remarks on all models, then on the parts of the fleet's plan that other programs cannot express."""
        lines = [*self._of_all(), *(remark for model in self.models for remark in model.remarks)]
        lines += [
            f"{model.name} is planned with {model.n_replicas} replicas; this is the first."
            for model in self.models
            if model.n_replicas > 1
        ]
        lines += [
            f"{', '.join(sorted(group))}: nothing here loads and unloads them together."
            for group in self.together
        ]
        return tuple(lines)

    def remarks_on(self, model: ExportedModel) -> tuple[str, ...]:
        """Remarks on one model that are not those on all."""
        shared, (name, *sentences) = self._shared(), _sentences(model)
        return tuple(line for one in (name, *(one for one in sentences if one not in shared)) for line in one)

    def _of_all(self) -> tuple[str, ...]:
        return tuple(line for one in self._shared() for line in one)

    def _shared(self) -> tuple[tuple[str, ...], ...]:
        first, *others = map(_sentences, self.models)
        return tuple(one for one in first[1:] if all(one in other for other in others))


def _sentences(model: ExportedModel) -> list[tuple[str, ...]]:
    """The remarks on a model's plan, each with its lines; the first one is its name."""
    name, *lines = remarks(model.plan, exported_devices(model.plan))
    found: list[tuple[str, ...]] = [(name,)]
    is_whole = True
    for line in lines:
        found[-1:] = [*found[-1:], (line,)] if is_whole else [(*found[-1], line)]
        is_whole = line.endswith(".")
    return found


def alternatives(fleet: ExportedFleet) -> tuple[tuple[str, ...], ...] | None:
    """Groups of models of which any one fits with any one of each other group; None if no groups say that.

    Names are in the fleet's order. A model that always fits is a group of its own.
    """
    names = [model.name for model in fleet.models]
    fitting = {name: frozenset[str]().union(*(one for one in fleet.sets if name in one)) for name in names}
    groups: list[tuple[str, ...]] = []
    for name in names:
        if any(name in group for group in groups):
            continue
        groups.append(tuple(other for other in names if other == name or other not in fitting[name]))
    is_partition = sum(map(len, groups)) == len(names)
    one_of_each = all(len(one & set(group)) == 1 for one in fleet.sets for group in groups)
    return (
        tuple(groups) if is_partition and one_of_each and len(fleet.sets) == prod(map(len, groups)) else None
    )


def most_at_a_time(fleet: ExportedFleet) -> int:
    """The largest number of models of which any choice fits together."""
    names = [model.name for model in fleet.models]
    for size in range(2, len(names) + 1):
        if any(
            not any(fitting.issuperset(some) for fitting in fleet.sets) for some in combinations(names, size)
        ):
            return size - 1
    return len(names)


def check_values(values: Mapping[str, str], forbidden: str, where: str) -> None:
    """Raises BadPlan if a value has one of the characters that the file cannot hold."""
    for name, value in values.items():
        if found := next((char for char in value if char in forbidden or not char.isprintable()), None):
            raise BadPlan(f"{where} cannot hold {found!r}, and {name} is {value!r}: rename the file")
