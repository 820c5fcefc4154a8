"""An entry `source: installed` of a fleet's file: every model on this disk that fits, a pulled one too."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vram_llm.cli.fleet_config import INSTALLED, ConfiguredFleet
from vram_llm.errors import BadConfig

if TYPE_CHECKING:
    from vram_llm.machine.types import Machine


def names_installed(fleet: ConfiguredFleet) -> bool:
    """Whether an entry means the models on this disk."""
    return any(model.source == INSTALLED for model in fleet.spec.models)


def installed_now() -> frozenset[tuple[str, int]]:
    """The models that `vram-llm models` lists, with their bytes."""
    from vram_llm.model import library

    return frozenset((model.name, model.size_bytes) for model in library.everything())


def with_installed(fleet: ConfiguredFleet, machine: "Machine") -> ConfiguredFleet:
    """`fleet` with the models on this disk in place of the entry, with its options.

    Models that other entries name, and those that do not fit the machine by the analytic meter, are left
    out. Raises BadConfig if none is left.
    """
    from vram_llm.workflows.model_list import listed_models
    from vram_llm.workflows.model_names import resolve

    entry = next((model for model in fleet.spec.models if model.source == INSTALLED), None)
    if entry is None:
        return fleet
    others = tuple(model for model in fleet.spec.models if model is not entry)
    taken = {name for model in others for name in (model.name, *model.aliases)}
    paths = {Path(resolve(model.source)).resolve() for model in others}
    found = [
        replace(entry, name=each.short_name, source=each.path)
        for each in listed_models(machine, entry.workload)
        if each.fits and each.short_name not in taken and Path(each.path).resolve() not in paths
    ]
    place = fleet.places[entry.name]
    if not (others or found):
        raise BadConfig(f"{place}: no model on this disk fits; `vram-llm pull` fetches one")
    servers = {name: server for name, server in fleet.servers.items() if name != entry.name}
    own = fleet.servers[entry.name]
    servers |= {model.name: replace(own, model_name=model.name) for model in found}
    return replace(
        fleet,
        spec=replace(fleet.spec, models=(*others, *found)),
        servers=servers,
        places={**fleet.places, **{model.name: place for model in found}},
    )
