"""Exported fleets made by hand."""

from collections.abc import Sequence
from typing import Any

from tests.planner.saved import local, saved_plan
from vram_llm.planner.export.exported_fleet import ExportedFleet, ExportedModel
from vram_llm.planner.types import Plan


def card_plan(*cards: int, name: str = "big") -> Plan:
    """A plan over these cards of a machine of three."""
    devices = [local(index) for index in cards]
    plan = saved_plan(devices, [80 // len(cards)] * len(cards))
    return replace_path(plan, f"/srv/models/{name}.gguf")


def replace_path(plan: Plan, path: str) -> Plan:
    import dataclasses

    return dataclasses.replace(plan, model=dataclasses.replace(plan.model, path=path))


def fleet_of(names: str, sets: Sequence[str], **other: Any) -> ExportedFleet:
    """A model for each letter, all on card 0; each set is the letters of the models that fit together."""
    models = tuple(ExportedModel(name=name, plan=card_plan(0, name=name), **other) for name in names)
    return ExportedFleet(models=models, sets=tuple(map(frozenset, sets)))
