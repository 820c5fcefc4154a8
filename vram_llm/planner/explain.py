"""Why this plan, in sentences; and why none, with what would fit."""

from collections.abc import Sequence

from vram_llm.errors import Way
from vram_llm.machine.types import Machine
from vram_llm.model.profile import TENSOR_ALIGNMENT, ModelProfile
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.search.search import Candidate
from vram_llm.planner.types import HOST, Companion, Context, Workload
from vram_llm.units import format_bytes, format_count


def refusal(
    profile: ModelProfile,
    machine: Machine,
    estimate: Estimate,
    context: Context,
    reserve_bytes: int,
    ways: Sequence[Way],
    companions: Sequence[Companion] = (),
) -> str:
    """One sentence for a model that does not fit, and what to try."""
    names = {device.id: device.name for device in machine.devices}
    short = [
        f"{names[device.id]} ({device.id}) is {format_bytes(device.over_bytes)} short"
        for device in estimate.devices
        if device.over_bytes > 0
    ]
    if estimate.host.over_bytes > 0:
        host = estimate.host
        short.append(
            f"the computer's memory is {format_bytes(host.over_bytes)} short "
            f"({format_bytes(host.total_bytes)} needed, {format_bytes(machine.host.available_bytes)} free)"
        )
    at = f"at {format_count(context.n_ctx)} context"
    if companions:
        at += f" with {' and '.join(map(beside, companions))} beside it"
    head = f"{profile.name} {profile.quantization} does not fit {at}: {', '.join(short)}"
    if ways:
        return f"{head}; what would fit: {', or '.join(map(str, ways))}"
    if all(device.over_bytes <= 0 for device in estimate.devices):
        return f"{head}; close other programs, or take a smaller quantisation"
    needed = sum(use.total_bytes for use in estimate.devices)
    usable = sum(device.budget_bytes(reserve_bytes) for device in machine.devices)
    if needed <= usable:
        return (
            f"{head}; together the devices have room, but no cut of whole layers leaves each within its own"
        )
    return (
        f"{head}; no context and no KV type helps: {format_bytes(needed)} are needed on devices where "
        f"{format_bytes(usable)} can be used, and the computer's memory cannot take the rest; take a smaller "
        "quantisation or another card"
    )


def beside(companion: Companion) -> str:
    """A companion, what it holds and where."""
    total = sum(use.total_bytes for use in companion.uses.values())
    where = f" on {companion.device}" if companion.device not in (None, HOST) else ""
    return f"{companion.name} ({format_bytes(total)}{where})"


def left_out(machine: Machine, companions: Sequence[Companion]) -> tuple[str, ...]:
    """Of companions that no device has room for."""
    return tuple(
        f"{each.name} stays on the CPU: no device has room for all of it"
        for each in companions
        if each.device == HOST and machine.devices
    )


def unmapped(profile: ModelProfile, workload: Workload) -> tuple[str, ...]:
    """Of a file that cannot be mapped."""
    if profile.can_map or not workload.use_mmap:
        return ()
    return (
        f"the file is read into memory, not mapped: its weights are not aligned to {TENSOR_ALIGNMENT} bytes, "
        "and llama.cpp aborts on mapping such a file",
    )


def notes(
    profile: ModelProfile, machine: Machine, chosen: Candidate, more: Candidate | None
) -> tuple[str, ...]:
    """What a reader should know of a plan beyond its figures. `more` is one step of context more."""
    context = chosen.context
    said = list(machine.notes)
    if not profile.memory_is_modelled and chosen.estimate.method == "analytic":
        said.append(
            f"what a context takes is not known here for architecture {profile.architecture}: "
            "the figure is a lower bound"
        )
    if profile.context_length and context.n_ctx_seq > profile.context_length:
        said.append(
            f"the context of {context.n_ctx_seq:,} is longer than the {profile.context_length:,} tokens "
            "this model was trained on"
        )
    if more is not None:
        said.append(
            f"{more.context.n_ctx:,} tokens would be too many without another layer on the CPU: "
            f"{_shortage(more.estimate)}"
        )
    return tuple(said)


def _shortage(estimate: Estimate) -> str:
    short = [
        f"{use.id} {format_bytes(use.over_bytes)} short" for use in estimate.devices if use.over_bytes > 0
    ]
    if estimate.host.over_bytes > 0:
        short.append(f"the computer's memory {format_bytes(estimate.host.over_bytes)} short")
    return ", ".join(short) or "more layers would have to stay on the CPU"
