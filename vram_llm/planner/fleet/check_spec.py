"""Checks of a fleet's spec: names, groups, devices."""

from collections.abc import Sequence
from dataclasses import replace

from vram_llm.errors import BadPlan
from vram_llm.machine.types import Device, Machine
from vram_llm.planner.fleet.limits import united
from vram_llm.planner.fleet.types import FleetModelSpec, FleetSpec
from vram_llm.planner.types import HOST


def checked(spec: FleetSpec, machine: Machine) -> FleetSpec:
    """`spec` with the ids of the devices that its models name. Raises BadPlan for the first contradiction."""
    if not spec.models:
        raise BadPlan("the fleet has no models; name at least one")
    names = [model.name for model in spec.models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadPlan(f"two models are called {twice!r}; give each its own name")
    for group in (*spec.together, *spec.apart):
        if unknown := sorted(group - set(names)):
            raise BadPlan(f"a group names {unknown[0]!r}, and the models are {', '.join(names)}")
    _check_groups(spec)
    return replace(spec, models=tuple(_with_device_ids(model, machine) for model in spec.models))


def must_fit(spec: FleetSpec) -> tuple[frozenset[str], ...]:
    """The groups of models that must be resident together: those of `together`, and those of the start."""
    unions = united(spec.together, (model.name for model in spec.models))
    groups = (*unions.values(), frozenset(at_start(spec)))
    return tuple(dict.fromkeys(group for group in groups if len(group) > 1))


def at_start(spec: FleetSpec) -> tuple[str, ...]:
    """The models that are loaded at the start: the preloaded ones, and those that are always with them."""
    unions = united(spec.together, (model.name for model in spec.models))
    names = frozenset[str]().union(*(unions[model.name] for model in spec.models if model.preload))
    return tuple(model.name for model in spec.models if model.name in names)


def _check_groups(spec: FleetSpec) -> None:
    """Raises BadPlan if a group of one resident model has two that must be resident together."""
    preloaded = [model.name for model in spec.models if model.preload]
    for together in must_fit(spec):
        for apart in spec.apart:
            both = sorted(together & apart)
            if len(both) < 2:
                continue
            why = "loaded at the start" if set(both) <= set(preloaded) else "resident together"
            raise BadPlan(
                f"{both[0]} and {both[1]} are to be {why}, and are in a group of which only one is resident; "
                "change one of the two"
            )


def _with_device_ids(model: FleetModelSpec, machine: Machine) -> FleetModelSpec:
    if model.devices is None:
        return model
    ids = [_device_id(model.name, each, machine.devices) for each in model.devices]
    return replace(model, devices=tuple(dict.fromkeys(ids)))


def _device_id(model: str, wanted: str, devices: Sequence[Device]) -> str:
    """The id of the device that has `wanted` as id, index, address, UUID, or name. Raises BadPlan."""
    text = wanted.strip().casefold()
    if text == HOST:
        return HOST
    for device in devices:
        exact = (device.id, device.endpoint, device.uuid, device.pci_bus_id)
        if text in [each.casefold() for each in exact if each is not None]:
            return device.id
    if text.isdigit() and int(text) < len(devices):
        return devices[int(text)].id
    named = [device.id for device in devices if text and text in device.name.casefold()]
    if len(named) == 1:
        return named[0]
    known = ", ".join(f"{device.id} ({device.name})" for device in devices) or "none"
    problem = f"is the name of {len(named)} devices" if named else "is no device"
    raise BadPlan(f"{model} may use {wanted!r}, which {problem}; the devices are {known}")
