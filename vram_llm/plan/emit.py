"""A Plan as JSON, and back."""

import msgspec

from vram_llm.errors import BadPlan
from vram_llm.plan.types import PLAN_VERSION, Plan


def to_json(plan: Plan) -> bytes:
    """The plan as indented JSON. Every figure is bytes."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2)


def from_json(data: bytes, where: str) -> Plan:
    """The plan in `data`; `where` names it in errors. Raises BadPlan."""
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except msgspec.MsgspecError as error:
        raise BadPlan(f"{where} is not a plan of `vram-llm plan --json`: {error}") from error
    if plan.version != PLAN_VERSION:
        raise BadPlan(
            f"{where} is a plan of version {plan.version}, this program writes {PLAN_VERSION}; plan again"
        )
    return plan
