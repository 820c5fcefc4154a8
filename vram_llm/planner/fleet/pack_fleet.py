"""Packs a fleet on a machine: places of each model, the packing of all, then places in the memory left.

A place of the first round has a device's whole budget. If a packing leaves models out of a set that fits
together, further places are looked for in the memory that the set leaves, and the fleet is packed again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from vram_llm.errors import DoesNotFit
from vram_llm.planner.fleet.check_spec import must_fit
from vram_llm.planner.fleet.layouts import Layout, layouts_of
from vram_llm.planner.fleet.limits import FittingModels, Limits, Uses
from vram_llm.planner.fleet.pack import Packing, pack
from vram_llm.planner.fleet.packing_cost import ModelToPack
from vram_llm.planner.fleet.place_options import PlaceFinder, PlaceOption
from vram_llm.planner.fleet.room import without
from vram_llm.planner.fleet.types import FleetModelSpec, FleetSpec
from vram_llm.units import format_bytes

_MOST_ROUNDS = 3
_MOST_PLACES = 12  # that are looked for in a round
_WORTH_IT = 1e-6  # share of the cost by which another round must be better


def pack_fleet(
    spec: FleetSpec,
    finders: Mapping[str, PlaceFinder],
    limits: Limits,
    alike: Sequence[frozenset[str]] = (),
) -> tuple[Packing, Mapping[str, ModelToPack]]:
    """The packing of a checked spec, and the layouts that it was chosen from, by model.

    `alike` are groups of equal devices. Raises DoesNotFit if a model, its replicas, or models that must be
    resident together do not fit.
    """
    options = {model.name: list(_options(model, finders[model.name])) for model in spec.models}
    groups = must_fit(spec)
    models = _models(spec, options, limits)
    packing = pack(models, limits, groups, alike)
    for _ in range(_MOST_ROUNDS):
        fitting = _fitting(packing.layouts, limits)
        wanted = list(_rooms(spec, packing.layouts, fitting, limits, groups))
        found = list(_found(wanted, finders, options))
        if not found:
            break
        for name, option in found:
            options[name].append(option)
        models = _models(spec, options, limits)
        better = pack(models, limits, groups, alike)
        if better.cost >= packing.cost * (1 - _WORTH_IT):
            break
        packing = better
    _check_groups_fit(groups, _fitting(packing.layouts, limits), limits)
    return packing, {model.name: model for model in models}


def _options(model: FleetModelSpec, finder: PlaceFinder) -> tuple[PlaceOption, ...]:
    try:
        return finder.options(with_all=model.replicas is None)
    except DoesNotFit as error:
        where = "" if model.devices is None else f" on {', '.join(model.devices)}, the devices it may use"
        raise DoesNotFit(
            f"{model.name} can never be loaded{where}: {error}",
            short_bytes=error.short_bytes,
            suggestions=error.suggestions,
            host_is_short=error.host_is_short,
        ) from None


def _models(
    spec: FleetSpec, options: Mapping[str, Sequence[PlaceOption]], limits: Limits
) -> list[ModelToPack]:
    """The models with all layouts that fit alone. Raises DoesNotFit if one has none."""
    found = []
    for model in spec.models:
        own = options[model.name]
        layouts = _alone(own, model.replicas, limits)
        if not layouts:
            most = max(n for n in range(model.replicas or 1) if n == 0 or _alone(own, n, limits))
            raise DoesNotFit(
                f"{model.replicas} copies of {model.name} can never be loaded at the same time: "
                f"{most} fit{'s' * (most == 1)}, each on devices of its own; "
                f"ask for --replicas {max(most, 1)}, or for a shorter context"
            )
        found.append(ModelToPack.of(model, layouts))
    return found


def _alone(options: Sequence[PlaceOption], replicas: int | None, limits: Limits) -> tuple[Layout, ...]:
    return tuple(
        layout
        for layout in layouts_of(options, replicas, limits.one_program)
        if _fitting({"": layout}, limits).fit([""])
    )


def _fitting(layouts: Mapping[str, Layout], limits: Limits) -> FittingModels:
    return FittingModels(
        limits, {name: [option.uses for option in layout.options] for name, layout in layouts.items()}
    )


def _rooms(
    spec: FleetSpec,
    layouts: Mapping[str, Layout],
    fitting: FittingModels,
    limits: Limits,
    groups: Sequence[frozenset[str]],
) -> Iterator[tuple[str, dict[str, int]]]:
    """Models for which another place is worth finding, with the budgets that are left there."""
    single = {model.name for model in spec.models if model.replicas == 1}
    size = {name: sum(layout.uses.values()) for name, layout in layouts.items()}
    for group in groups:
        if not fitting.fit(group):
            for name in sorted(group & single, key=size.__getitem__):
                yield name, _left(limits, [layouts[other].uses for other in group if other != name])
    for chosen in sorted(fitting.maximal_sets(spec.together), key=lambda each: -len(each)):
        kept_apart = {name for group in limits.apart if group & chosen for name in group}
        for name in sorted(single - chosen - kept_apart, key=size.__getitem__):
            yield name, _left(limits, [layouts[other].uses for other in chosen])


def _left(limits: Limits, uses: Iterable[Uses]) -> dict[str, int]:
    return without(limits.budgets, uses, limits.one_program)


def _found(
    wanted: Iterable[tuple[str, dict[str, int]]],
    finders: Mapping[str, PlaceFinder],
    options: Mapping[str, Sequence[PlaceOption]],
) -> Iterator[tuple[str, PlaceOption]]:
    """New places in these rooms."""
    known = {(name, tuple(option.uses.items())) for name, each in options.items() for option in each}
    n_tried = 0
    for name, left in wanted:
        least_bytes = min(sum(option.uses.values()) for option in options[name])
        if sum(left.values()) < least_bytes:
            continue
        n_tried += 1
        if n_tried > _MOST_PLACES:
            return
        option = finders[name].within(left)
        if option is not None and (key := (name, tuple(option.uses.items()))) not in known:
            known.add(key)
            yield name, option


def _check_groups_fit(groups: Sequence[frozenset[str]], fitting: FittingModels, limits: Limits) -> None:
    for group in groups:
        if excess := fitting.excess(group):
            n_bytes = {name: over for name, over in excess.items() if name in limits.budgets}
            reasons = [
                f"{format_bytes(over)} more than the {format_bytes(limits.budgets[name])} that {name} has"
                for name, over in n_bytes.items()
            ]
            if len(n_bytes) < len(excess):
                reasons.append("an RPC worker serves one program at a time")
            raise DoesNotFit(
                f"{_listed(sorted(group))} are to be resident together and never fit: {'; '.join(reasons)}; "
                "ask for shorter contexts, take one out of the group, or do not preload it",
                short_bytes=sum(n_bytes.values()),
            )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
