"""How prompts are computed with weights that are on the CPU, in sentences."""

from collections.abc import Iterator
from dataclasses import replace

from vram_llm.machine.types import DeviceKind
from vram_llm.planner.report.figures import seconds
from vram_llm.planner.types import Context, Plan, SpeedEstimate, Workload
from vram_llm.units import format_count

_OPTIONS = {
    "--n-ctx",
    "--op-offload",
    "--no-op-offload",
    "--n-ubatch",
}  # of ways that differ in prompts alone


def how_prompts_run(plan: Plan) -> tuple[str, ...]:
    """A sentence if layers of devices need weights on the CPU: where prompts are computed with these."""
    first = _first_card(plan)
    if first is None:
        return ()
    size = f"{format_count(plan.context.n_ubatch)} tokens at a time"
    if plan.context.op_offload:
        return (f"Prompts copy the CPU's weights to {first}, for {size}.",)
    return (f"Prompts use the CPU's weights there, {size}.",)


def why_prompts(plan: Plan) -> tuple[str, ...]:
    """The same for `--explain`, with the times of a request; in brackets what other ways would give."""
    first = _first_card(plan)
    context, speed = plan.context, plan.speed
    if first is None or speed is None or speed.prompt_s is None:
        return ()
    how = f"are copied to {first}" if context.op_offload else "are used there"
    prompt = f"{speed.prompt_tokens:,} tokens take {seconds(speed.prompt_s)}"
    request = f"{prompt} and an answer of {Workload.DEFAULT_ANSWER} {_answer(speed)}"
    others = "; ".join(_others(plan))
    return (
        f"Prompts: weights on the CPU {how} for {context.n_ubatch:,} tokens at a time; {request}"
        f"{f' ({others})' if others else ''}.",
    )


def _first_card(plan: Plan) -> str | None:
    """The device that prompts may copy weights to; None if there is none, or no such weights."""
    if not plan.placement.shares_layers_with_host or plan.context.pooling is not None:
        return None
    kinds = {device.id: device.kind for device in plan.devices}
    order = plan.placement.device_order
    return next((device_id for device_id in order if kinds[device_id] is not DeviceKind.RPC), None)


def _others(plan: Plan) -> Iterator[str]:
    """ "5.4 s and 15 s without copies, with micro-batches of 512"."""
    for other in plan.alternatives:
        options = {flag for flag in other.flags if flag.startswith("--")}
        changed = _difference(plan.context, other.context) if options <= _OPTIONS else ""
        if not changed or not other.fits or other.speed is None or other.speed.prompt_s is None:
            continue
        yield f"{seconds(other.speed.prompt_s)} and {_answer(other.speed)} {changed}"


def _answer(speed: SpeedEstimate) -> str:
    return seconds(Workload.DEFAULT_ANSWER * speed.step_s)


def _difference(context: Context, other: Context) -> str:
    """How `other` computes prompts differently; "" if it does not."""
    same = replace(
        context,
        op_offload=other.op_offload,
        n_ubatch=other.n_ubatch,
        n_batch=other.n_batch,
        use_mmap=other.use_mmap,
    )
    if same != other:
        return ""
    ways = []
    if other.op_offload != context.op_offload:
        ways.append("with copies" if other.op_offload else "without copies")
    if other.n_ubatch != context.n_ubatch:
        ways.append(f"with micro-batches of {other.n_ubatch:,}")
    return ", ".join(ways)
