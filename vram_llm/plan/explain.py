"""Why this plan, in sentences; and why none, with what would fit."""

from collections.abc import Sequence

from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.plan.types import HOST, Context, Estimate, Placement, Workload
from vram_llm.units import format_bytes, format_count

WAY_WITH_SMALL_KV = "--kv-type q8_0 (half the KV cache)"


def way_with_context(n_ctx: int) -> str:
    """The largest context that fits, as advice."""
    return f"--n-ctx {n_ctx} ({format_count(n_ctx)} tokens)"


def way_without_constraints(placement: Placement, workload: Workload) -> str:
    """The planner's own placement, as advice to someone who dictated another."""
    dropped = " and ".join(
        flag
        for flag, value in (
            ("--tensor-split", workload.tensor_split),
            ("--n-gpu-layers", workload.n_gpu_layers),
        )
        if value is not None
    )
    split = ",".join(map(str, placement.tensor_split)) or "none"
    on_cpu = f", {placement.cpu_layers} layers on the CPU" if placement.cpu_layers else ""
    return f"no {dropped} (the planner finds {split}{on_cpu})"


def refusal(
    profile: ModelProfile, machine: Machine, estimate: Estimate, context: Context, ways: Sequence[str]
) -> str:
    """One sentence for a model that does not fit, and what to try."""
    names = {device.id: device.name for device in machine.devices}
    short = [
        f"{names[device.id]} ({device.id}) is {format_bytes(device.over_bytes)} short"
        for device in estimate.devices
        if device.over_bytes > 0
    ]
    if estimate.host.over_bytes > 0:
        short.append(f"the computer's memory is {format_bytes(estimate.host.over_bytes)} short")
    at = f"at {format_count(context.n_ctx)} context"
    head = f"{profile.name} {profile.quantization} does not fit {at}: {', '.join(short)}"
    if ways:
        return f"{head}; what would fit: {', or '.join(ways)}"
    needed = sum(d.total_bytes for d in estimate.devices) + estimate.host.total_bytes
    have = sum(d.budget_bytes for d in estimate.devices) + estimate.host.budget_bytes
    return (
        f"{head}; no context and no KV type helps, it needs {format_bytes(needed)} in all where "
        f"{format_bytes(have)} can be used: take a smaller quantisation or another card"
    )


def notes(
    profile: ModelProfile,
    machine: Machine,
    context: Context,
    placement: Placement,
) -> tuple[str, ...]:
    """What a reader should know of a plan beyond its figures."""
    names = {device.id: device.name for device in machine.devices}
    said = list(machine.notes)
    if not profile.memory_is_modelled:
        said.append(
            f"what a context takes is not known here for architecture {profile.architecture}: "
            "the figure is a lower bound"
        )
    if profile.context_length and context.n_ctx > profile.context_length:
        said.append(
            f"the context of {context.n_ctx:,} is longer than the {profile.context_length:,} tokens "
            "this model was trained on"
        )
    if machine.devices and placement.cpu_layers:
        rest = "and the output " if placement.output_device == HOST else ""
        said.append(
            f"{placement.cpu_layers} of {profile.n_layers} layers {rest}stay on the CPU, "
            "which will be much slower than a card"
        )
    idle = [names[device.id] for device in machine.devices if device.id not in placement.device_order]
    if idle:
        said.append(f"not used: {', '.join(idle)}")
    return tuple(said)
