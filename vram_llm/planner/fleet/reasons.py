"""The reason for the place of a fleet's model and for its number of replicas, as a sentence."""

from collections.abc import Iterable, Mapping, Sequence

from vram_llm.planner.fleet.layouts import Layout, time_of
from vram_llm.planner.fleet.limits import FittingModels, Limits
from vram_llm.planner.fleet.packing_cost import ModelToPack
from vram_llm.planner.fleet.place_options import PlaceOption

_SAME = 1.005  # a place that takes at most this times the fastest one's time counts as fast


def reason(
    name: str, models: Mapping[str, ModelToPack], layouts: Mapping[str, Layout], limits: Limits
) -> str:
    """The reason for the layout of a model in a packing."""
    model, chosen = models[name], layouts[name]
    if len(chosen.options) > 1:
        return _of_replicas(model, chosen)
    place = f"on {_devices(chosen.options[0])}"
    fastest = min(model.layouts, key=lambda layout: time_of(layout, is_auto=model.is_auto))
    slower = time_of(chosen, is_auto=model.is_auto) / time_of(fastest, is_auto=model.is_auto)
    if slower <= _SAME:
        alone = " alone, the only place that holds it" if len(model.layouts) == 1 else ", its fastest place"
        return place + alone
    if len(fastest.options) > 1:
        other = f"{len(fastest.options)} copies, {_places(fastest)}, would have {_more(slower)} throughput"
    else:
        other = f"{_places(fastest)} it would have {_more(slower)} speed"
    return f"{place}; {other}{_obstacle(name, fastest, layouts, limits)}"


def _more(ratio: float) -> str:
    return f"{ratio:.2g} times the" if ratio >= 1.5 else f"{ratio - 1:.0%} more"


def _of_replicas(model: ModelToPack, chosen: Layout) -> str:
    text = (
        f"{len(chosen.options)} copies, {_places(chosen)}: "
        f"{chosen.throughput_tokens_per_s:.3g} tok/s together, predicted"
    )
    single = [layout for layout in model.layouts if len(layout.options) == 1]
    if not model.is_auto or not single:
        return text
    best = max(single, key=lambda layout: layout.throughput_tokens_per_s)
    return f"{text}; the best single copy, {_places(best)}, has {best.throughput_tokens_per_s:.3g}"


def _obstacle(name: str, other: Layout, layouts: Mapping[str, Layout], limits: Limits) -> str:
    """The cost of the layout `other` for the other models, as the end of a sentence."""
    now, then = (_fits_with(name, each, limits) for each in (layouts, {**layouts, name: other}))
    if lost := [each for each in layouts if each in now and each not in then]:
        return f", and not fit together with {_listed(lost)}"
    used = {device_id for option in other.options for device_id in option.devices}
    sharing = [
        each
        for each in sorted(then)
        if used & {device_id for option in layouts[each].options for device_id in option.devices}
    ]
    return (
        f", and share the device with {_listed(sharing)}" if sharing else ", and leave less room for others"
    )


def _fits_with(name: str, layouts: Mapping[str, Layout], limits: Limits) -> set[str]:
    """The models that fit together with `name`, each alone."""
    uses = {each: [option.uses for option in layout.options] for each, layout in layouts.items()}
    fitting = FittingModels(limits, uses)
    return {each for each in layouts if each != name and fitting.fit([name, each])}


def _places(layout: Layout) -> str:
    return _listed(sorted(f"on {_devices(option)}" for option in layout.options))


def _devices(option: PlaceOption) -> str:
    return " + ".join(option.devices) or "the host"


def _listed(names: Sequence[str] | Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
