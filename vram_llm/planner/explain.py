"""Notes on a plan, and the refusal of a model that does not fit, in sentences."""

from collections.abc import Sequence

from vram_llm.errors import Suggestion
from vram_llm.machine.types import Machine
from vram_llm.model.profile import TENSOR_ALIGNMENT, ModelProfile
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.placed_parts import listed, on_host
from vram_llm.planner.search.candidate import Candidate
from vram_llm.planner.types import HOST, Companion, Workload
from vram_llm.units import format_bytes, format_count


def refusal(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    suggestions: Sequence[Suggestion],
    companions: Sequence[Companion] = (),
) -> str:
    """One sentence for a model that does not fit, with changes to try."""
    estimate, context = chosen.estimate, chosen.context
    names = {device.id: device.name for device in machine.devices}
    short = [
        f"{names[device_id]} ({device_id}) is {format_bytes(n_bytes)} short"
        for device_id, n_bytes in estimate.short_devices
    ]
    if estimate.host.over_bytes > 0:
        host, moved = estimate.host, on_host(chosen.placement)
        n_held, held = profile.n_layers - moved.n_layers, ""
        if machine.devices and moved.parts:
            held = f"with {listed(moved.phrases(profile.n_layers))} on the CPU, "
        elif machine.devices and moved.n_layers:
            held = f"the devices hold {n_held} of {profile.n_layers} layers, and for the others "
        needed = host.total_bytes + sum(use.shared_bytes for use in estimate.devices)
        short.append(
            f"{held}the computer's memory is {format_bytes(host.over_bytes)} short "
            f"({format_bytes(needed)} needed, {format_bytes(machine.host.available_bytes)} free)"
        )
    at = f"at {format_count(context.n_ctx)} context"
    if companions:
        at += f" with {' and '.join(map(companion_text, companions))}"
    head = f"{profile.name} {profile.quantization} does not fit {at}: {', '.join(short)}"
    if suggestions:
        return f"{head}; what would fit: {', or '.join(map(str, suggestions))}"
    if not estimate.short_devices:
        other_card = " or another card" if machine.devices else ""
        what_else = "plan for more memory" if machine.host.what_if else "close other programs"
        return f"{head}; {what_else}, or take a smaller quantisation{other_card}"
    needed = sum(use.total_bytes for use in estimate.devices)
    usable = sum(device.budget_bytes(workload.reserve_bytes) for device in machine.devices)
    if needed <= usable:
        return f"{head}; the devices together have room, but no cut of whole layers fits each device"
    return (
        f"{head}; no context and no KV type helps: {format_bytes(needed)} are needed on devices where "
        f"{format_bytes(usable)} can be used, and the computer's memory cannot take the rest; take a smaller "
        "quantisation or another card"
    )


def companion_text(companion: Companion) -> str:
    """A companion, its memory and its device."""
    total = sum(use.total_bytes for use in companion.uses.values())
    where = f" on {companion.device}" if companion.device not in (None, HOST) else ""
    return f"{companion.name} ({format_bytes(total)}{where})"


def left_out(machine: Machine, companions: Sequence[Companion]) -> tuple[str, ...]:
    """A note for each companion that no device has room for."""
    return tuple(
        f"{companion.name} stays on the CPU: no device has room for all of it"
        for companion in companions
        if companion.device == HOST and machine.devices
    )


def unmapped(profile: ModelProfile, workload: Workload) -> tuple[str, ...]:
    """A note on a file that cannot be mapped."""
    if profile.can_map or workload.use_mmap is False:
        return ()
    return (
        f"the file is read into memory, not mapped: its weights are not aligned to {TENSOR_ALIGNMENT} bytes, "
        "and llama.cpp aborts on mapping such a file",
    )


def notes(
    profile: ModelProfile, machine: Machine, chosen: Candidate, more: Candidate | None
) -> tuple[str, ...]:
    """Notes on a plan beyond its figures. `more` is the plan with one more step of context."""
    context = chosen.context
    sentences = list(machine.notes)
    if not profile.memory_is_modelled and chosen.estimate.method == "analytic":
        sentences.append(
            f"the memory of a context is not known for architecture {profile.architecture}: "
            "the figure is a lower bound"
        )
    if profile.context_length and context.n_ctx_seq > profile.context_length:
        sentences.append(
            f"the context of {context.n_ctx_seq:,} is longer than the {profile.context_length:,} tokens "
            "this model was trained on"
        )
    if more is not None:
        sentences.append(
            f"{more.context.n_ctx:,} tokens would be too many without more of the model on the CPU: "
            f"{_shortage(more.estimate)}"
        )
    return tuple(sentences)


def _shortage(estimate: Estimate) -> str:
    short = [f"{device_id} {format_bytes(n_bytes)} short" for device_id, n_bytes in estimate.short_devices]
    if estimate.host.over_bytes > 0:
        short.append(f"the computer's memory {format_bytes(estimate.host.over_bytes)} short")
    return ", ".join(short) or "more of the model would have to stay on the CPU"
