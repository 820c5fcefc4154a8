"""A Plan in the words of other programs; as JSON, and back."""

import msgspec

from vram_llm.errors import BadPlan
from vram_llm.plan import emit_compose, emit_python, emit_server
from vram_llm.plan.types import PLAN_VERSION, Plan

FORMATS = ("llama-server", "llama-cpp-python", "env", "compose", "json")


def emit(plan: Plan, form: str) -> str:
    """What makes another program place the model as `plan` does; `form` is one of FORMATS.

    Plans for cards that are not here have words in angle brackets where an id must be filled in. Raises
    BadPlan where the format cannot say what the plan calls for.
    """
    match form:
        case "llama-server":
            return emit_server.command_line(plan)
        case "llama-cpp-python":
            return emit_python.script(plan)
        case "env":
            return emit_server.exports(plan)
        case "compose":
            return emit_compose.compose_file(plan)
        case "json":
            return to_json(plan).decode()
    raise ValueError(f"{form!r} is not one of {', '.join(FORMATS)}")


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
