"""The cost of a packing: how much longer a fleet's requests take than if each model were alone.

Requests are assumed to ask for all models equally often, and for one more step of priority twice as often.
For each model, with weight w, in units of its typical request on its fastest layout:

    slow      the time of the request on its layout
    shared    for each other model that fits together with it, half of the time that both keep a device busy:
              others are assumed to answer half of the time
    swap      the load time, in units of at least a second, * the probability that the model is not resident:
              the share of the weights outside the heaviest set of models that fits together with it; four
              times, for nothing streams while a model loads

    cost = sum of w * (slow * (1 + shared) + swap)

Groups that must be resident together, and do not fit, cost more than anything else, the more the more bytes
are missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vram_llm.planner.fleet.layouts import Layout, time_of
from vram_llm.planner.fleet.limits import Limits
from vram_llm.planner.fleet.types import FleetModelSpec
from vram_llm.units import GIB

_OTHERS_BUSY = 0.5  # share of the time in which another resident model answers
_WAITING = 4.0  # cost of a second of loading, in seconds of answering
_LEAST_REQUEST_S = 1.0  # a load that takes this long costs at most one request
_MISSING = 1e6  # cost of a group that must fit and does not, and of each GiB that is missing
_MOST_STEPS = 16  # of priority
_MOST_SETS = 4096  # of models that fit together are followed: all of twelve models', the heaviest of more

Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelToPack:
    """A model to pack: its layouts, of which one is chosen."""

    name: str
    layouts: tuple[Layout, ...]
    weight: float = 1.0
    is_auto: bool = False  # whether the number of replicas is open

    @classmethod
    def of(cls, spec: FleetModelSpec, layouts: Sequence[Layout]) -> "ModelToPack":
        """The model of a spec."""
        steps = max(-_MOST_STEPS, min(spec.priority, _MOST_STEPS))
        return cls(name=spec.name, layouts=tuple(layouts), weight=2.0**steps, is_auto=spec.replicas is None)


@dataclass(frozen=True, slots=True)
class _Figures:
    """Figures of one layout of one model."""

    demand: Array
    slow: float
    swap: float
    busy: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Sets:
    """Sets of models that fit together, one a row: demands, whether each model is in it, weights."""

    sums: Array
    members: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Partial:
    """Layouts of the first models, by index, and their cost; the other models count at their best."""

    chosen: tuple[int, ...]
    cost: float
    slow: float  # of `cost`, the part of slow and shared
    sets: _Sets


class PackingCost:
    """Costs of packings of some models within limits."""

    def __init__(
        self, models: Sequence[ModelToPack], limits: Limits, must_fit: Sequence[frozenset[str]] = ()
    ) -> None:
        """`must_fit` are groups of names that must be resident together."""
        self.models = tuple(models)
        self._resources = np.array(limits.resources, dtype=np.int64)
        self._n_bytes = len(limits.budgets)
        self._figures = [[self._of(model, each, limits) for each in model.layouts] for model in models]
        self._weights = [model.weight for model in models]
        self._all = sum(self._weights)
        self._must_fit = [
            [index for index, model in enumerate(models) if model.name in group] for group in must_fit
        ]
        self._shared: dict[tuple[int, int, int, int], float] = {}

    def start(self) -> Partial:
        """Nothing chosen."""
        nothing = _Sets(
            np.zeros((1, len(self._resources)), np.int64),
            np.zeros((1, len(self.models)), np.bool_),
            np.zeros(1),
        )
        return Partial((), self._all, 0.0, nothing)

    def demand(self, index: int, layout: int) -> Array:
        """The share of each resource that a layout takes."""
        return self._figures[index][layout].demand

    def extended(self, partial: Partial, layout: int) -> Partial:
        """`partial` with a layout of the next model. Its cost is never less."""
        index, chosen = len(partial.chosen), (*partial.chosen, layout)
        figures, weight = self._figures[index][layout], self._weights[index]
        slow = partial.slow + weight * figures.slow
        for other, other_layout in enumerate(partial.chosen):
            shared = self._shared_time(other, other_layout, index, layout)
            others = self._figures[other][other_layout]
            slow += shared * (weight * figures.slow + self._weights[other] * others.slow)
        sets = self._with_model(partial.sets, figures.demand, index, weight)
        rest = sum(self._weights[index + 1 :])
        heaviest = (sets.members[:, : index + 1] * sets.weights[:, None]).max(axis=0).tolist()
        swap = sum(
            self._weights[other]
            * self._figures[other][other_layout].swap
            * max(self._all - heaviest[other] - rest, 0.0)
            / self._all
            for other, other_layout in enumerate(chosen)
        )
        cost = slow + swap + rest + self._missing(chosen)
        return Partial(chosen, cost, slow, sets)

    def __call__(self, chosen: Sequence[int]) -> float:
        """The cost of a layout for each model."""
        partial = self.start()
        for layout in chosen:
            partial = self.extended(partial, layout)
        return partial.cost

    def _of(self, model: ModelToPack, layout: Layout, limits: Limits) -> _Figures:
        demand = limits.demand(model.name, [option.uses for option in layout.options])
        fastest = min(time_of(each, is_auto=model.is_auto) for each in model.layouts)
        request_s = max(min(each.request_s for each in model.layouts), _LEAST_REQUEST_S)
        return _Figures(
            demand=np.array(demand, dtype=np.int64),
            slow=time_of(layout, is_auto=model.is_auto) / fastest,
            swap=_WAITING * layout.load_s / request_s,
            busy=layout.busy,
        )

    def _shared_time(self, one: int, layout: int, other: int, other_layout: int) -> float:
        """The share of either model's time in which it waits for the other one on a device of both."""
        key = (one, layout, other, other_layout)
        if key not in self._shared:
            a, b = self._figures[one][layout], self._figures[other][other_layout]
            fit = bool((a.demand + b.demand <= self._resources).all())
            both = sum(share * b.busy.get(device_id, 0.0) for device_id, share in a.busy.items())
            self._shared[key] = _OTHERS_BUSY * both if fit else 0.0
        return self._shared[key]

    def _with_model(self, sets: _Sets, demand: Array, index: int, weight: float) -> _Sets:
        """`sets`, and those of them that the model fits together with."""
        sums = sets.sums + demand
        fits = (sums <= self._resources).all(axis=1)
        with_it = sets.members[fits]
        with_it[:, index] = True
        found = _Sets(
            np.concatenate([sets.sums, sums[fits]]),
            np.concatenate([sets.members, with_it]),
            np.concatenate([sets.weights, sets.weights[fits] + weight]),
        )
        if len(found.weights) <= _MOST_SETS:
            return found
        kept = np.argsort(-found.weights, kind="stable")[:_MOST_SETS]
        return _Sets(found.sums[kept], found.members[kept], found.weights[kept])

    def _missing(self, chosen: Sequence[int]) -> float:
        """The cost of groups that must fit and do not."""
        cost = 0.0
        for group in self._must_fit:
            demands = [self._figures[index][chosen[index]].demand for index in group if index < len(chosen)]
            if not demands:
                continue
            over = np.maximum(np.sum(demands, axis=0) - self._resources, 0)
            if over.any():
                n_bytes, n_groups = over[: self._n_bytes].sum(), over[self._n_bytes :].sum()
                cost += _MISSING * (1 + float(n_bytes) / GIB + float(n_groups))
        return cost
