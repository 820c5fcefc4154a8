"""A FleetPlan to JSON and from JSON."""

import msgspec

from vram_llm.errors import BadPlan
from vram_llm.planner.fleet.types import FLEET_VERSION, FleetPlan


def fleet_to_json(plan: FleetPlan) -> bytes:
    """The plan as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2)


def fleet_from_json(data: bytes, name: str) -> FleetPlan:
    """The plan in `data`; errors call it `name`.

    Raises BadPlan if `data` is no fleet's plan, or is one of another version or with a contradiction.
    """
    try:
        plan = msgspec.json.decode(data, type=FleetPlan)
    except msgspec.MsgspecError as error:
        raise BadPlan(f"{name} is not a fleet's plan: {error}") from error
    if plan.version != FLEET_VERSION:
        raise BadPlan(
            f"{name} is a fleet's plan of version {plan.version}, this program writes {FLEET_VERSION}; "
            "plan again"
        )
    names = {model.spec.name for model in plan.models}
    known = {device.id for device in plan.devices}
    named = {each for group in (*plan.sets, *plan.apart, *plan.together) for each in group}
    if unknown := sorted({*named, *plan.resident_at_start} - names):
        raise BadPlan(f"{name} contradicts itself: it has no model {unknown[0]!r}; plan again")
    used = {device_id for model in plan.models for replica in model.replicas for device_id in replica.devices}
    if absent := sorted(used - known):
        raise BadPlan(f"{name} contradicts itself: it has no device {absent[0]!r}; plan again")
    return plan
