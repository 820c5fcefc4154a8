"""A Plan in the format of another program, to JSON and from JSON."""

import msgspec

from vram_llm.errors import BadPlan
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.override_check import pattern_fault
from vram_llm.planner.types import HOST, PLAN_VERSION, FlashAttention, Plan

FORMATS = ("llama-server", "llama-cpp-python", "env", "compose", "json")


def emit(plan: Plan, form: str) -> str:
    """A file or command that makes another program place the model like `plan`; `form` is one of FORMATS.

    Plans for what-if cards have words in angle brackets where the user must fill in an id. Raises BadPlan if
    the format cannot express the plan.
    """
    if form == "json":
        return to_json(plan).decode()
    from vram_llm.planner.export import compose, llama_cpp_python, llama_server

    match form:
        case "llama-server":
            return llama_server.command_line(plan)
        case "llama-cpp-python":
            return llama_cpp_python.script(plan)
        case "env":
            return llama_server.exports(plan)
        case "compose":
            return compose.compose_file(plan)
    raise ValueError(f"{form!r} is not one of {', '.join(FORMATS)}")


def to_json(plan: Plan) -> bytes:
    """The plan as indented JSON."""
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
    if wrong := _contradiction(plan):
        raise BadPlan(f"{where} contradicts itself: {wrong}; plan again")
    return plan


def _contradiction(plan: Plan) -> str | None:
    """The first contradiction in a plan whose file may have been edited, or None."""
    placement, context = plan.placement, plan.context
    order = placement.device_order
    known = {device.id for device in plan.devices}
    counts = (*placement.layers_per_device, placement.cpu_layers)
    if unknown := next((device_id for device_id in order if device_id not in known), None):
        return f"it places layers on {unknown}, which is not among its devices"
    for override in placement.overrides:
        if override.device not in (*order, HOST):
            return f"an override puts weights on {override.device}, which its placement does not use"
        if (fault := pattern_fault(override.pattern)) is not None:
            return f"the override pattern {override.pattern!r} {fault}"
    if tuple(use.id for use in plan.estimate.devices) != order:
        return "its estimate is not for the devices of its placement"
    if not len(order) == len(placement.layers_per_device) == len(placement.tensor_split):
        return "its numbers of layer counts and of devices differ"
    if min(counts) < 0 or sum(counts) != plan.model.n_layers:
        return f"its layers add up to {sum(counts)} of {plan.model.n_layers}"
    if bad := next((t for t in (context.kv_type_k, context.kv_type_v) if t not in KV_TYPES), None):
        return f"there is no KV type {bad!r}"
    if min(context.n_ctx, context.parallel, context.n_batch, context.n_ubatch, context.n_threads) < 1:
        return "its context has a size below 1"
    if context.n_outputs < context.parallel:
        return f"{context.n_outputs} rows of logits are too few for {context.parallel} sequences"
    if context.flash_attn is FlashAttention.OFF and KV_TYPES[context.kv_type_v].is_quantized:
        return f"V cannot be kept as {context.kv_type_v} without flash attention"
    return None
