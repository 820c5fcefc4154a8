"""A Plan in the format of another program, to JSON and from JSON."""

import msgspec

from vram_llm.errors import BadPlan
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.override_check import pattern_fault
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import HOST, PLAN_VERSION, FlashAttention, Plan

FORMATS = ("llama-server", "llama-cpp-python", "env", "compose", "json")


def emit(plan: Plan, export_format: str) -> str:
    """The file or command that makes another program place the model like `plan`.

    `export_format` is one of FORMATS. A plan for what-if cards gives words in angle brackets, which the user
    replaces by UUIDs. Raises BadPlan if the format cannot express the plan.
    """
    if export_format == "json":
        return to_json(plan).decode()
    from vram_llm.planner.export import compose, llama_cpp_python, llama_server

    match export_format:
        case "llama-server":
            return llama_server.command_line(plan)
        case "llama-cpp-python":
            return llama_cpp_python.script(plan)
        case "env":
            return llama_server.export_lines(plan)
        case "compose":
            return compose.compose_file(plan)
    raise ValueError(f"{export_format!r} is not one of {', '.join(FORMATS)}")


def to_json(plan: Plan) -> bytes:
    """The plan as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=2)


def from_json(data: bytes, name: str) -> Plan:
    """The plan in `data`; errors call it `name`.

    Raises BadPlan if `data` is no plan, or is one of another version or with a contradiction.
    """
    try:
        plan = msgspec.json.decode(data, type=Plan)
    except msgspec.MsgspecError as error:
        raise BadPlan(f"{name} is not a plan of `vram-llm plan --json`: {error}") from error
    if plan.version != PLAN_VERSION:
        raise BadPlan(
            f"{name} is a plan of version {plan.version}, this program writes {PLAN_VERSION}; plan again"
        )
    if contradiction := _contradiction(plan):
        raise BadPlan(f"{name} contradicts itself: {contradiction}; plan again")
    return plan


def _contradiction(plan: Plan) -> str | None:
    """The first contradiction in a plan whose file may have been edited, or None."""
    placement, context = plan.placement, plan.context
    order = placement.device_order
    ids = {device.id for device in plan.devices}
    shares_tensors = placement.split_mode is SplitMode.TENSOR
    own = placement.layers_per_device[:1] if shares_tensors else placement.layers_per_device
    counts = (*own, placement.cpu_layers)
    if shares_tensors and set(placement.layers_per_device) != {plan.model.n_layers}:
        return "its devices do not share all layers"
    if unknown := next((device_id for device_id in order if device_id not in ids), None):
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
    for kv_type in (context.kv_type_k, context.kv_type_v):
        if kv_type not in KV_TYPES:
            return f"there is no KV type {kv_type!r}"
    if min(context.n_ctx, context.parallel, context.n_batch, context.n_ubatch, context.n_threads) < 1:
        return "its context has a size below 1"
    if context.n_outputs < context.parallel:
        return f"{context.n_outputs} rows of logits are too few for {context.parallel} sequences"
    if context.flash_attn is FlashAttention.OFF and KV_TYPES[context.kv_type_v].is_quantized:
        return f"V cannot be kept as {context.kv_type_v} without flash attention"
    return None
