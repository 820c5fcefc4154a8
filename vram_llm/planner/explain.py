"""Why this plan, in sentences; and why none, with what would fit."""

from collections.abc import Sequence

from vram_llm.errors import Way
from vram_llm.machine.types import Machine
from vram_llm.model.profile import TENSOR_ALIGNMENT, ModelProfile
from vram_llm.planner.llama_split import split_of
from vram_llm.planner.search.search import Candidate
from vram_llm.planner.types import (
    HOST,
    Alternative,
    Companion,
    Context,
    Estimate,
    Objective,
    Placement,
    Plan,
    Workload,
)
from vram_llm.units import format_bytes, format_count

_BEST = {
    Objective.LATENCY: "and no cut within the budgets has a shorter decode step",
    Objective.THROUGHPUT: "and no cut within the budgets has a faster slowest stage",
    Objective.CONTEXT: "the least that a cut in this order allows",
    Objective.BALANCE: "the least that a cut in this order allows",
}


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
    placement, context = chosen.placement, chosen.context
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
    if machine.devices and placement.cpu_layers:
        rest = "and the output " if placement.output_device == HOST else ""
        said.append(
            f"{placement.cpu_layers} of {profile.n_layers} layers {rest}stay on the CPU, "
            "which will be much slower than a card"
        )
    return tuple(said)


def why(plan: Plan) -> tuple[str, ...]:
    """What forced the choice, a sentence each."""
    said = []
    uses, placement = plan.estimate.devices, plan.placement
    if uses:
        fullest = max(uses, key=lambda use: use.total_bytes / max(use.budget_bytes, 1))
        share = fullest.total_bytes / max(fullest.budget_bytes, 1)
        least = "as dictated" if plan.dictated else _BEST[plan.objective]
        said.append(
            f"The {plan.model.n_layers} layers and the output are cut {_cut(placement)}: the fullest device, "
            f"{fullest.id}, is at {share:.0%} of its budget, {least}."
        )
        each = {
            use.id: use.weights_bytes // count
            for use, count in zip(uses, placement.layers_per_device, strict=True)
            if count
        }
        if each and max(each.values()) > 1.2 * min(each.values()):
            heavy, light = max(each, key=each.__getitem__), min(each, key=each.__getitem__)
            said.append(
                f"Layers are not alike: {heavy} gets {format_bytes(each[heavy])} with each of its layers, "
                f"{light} {format_bytes(each[light])}; equal counts would not be equal bytes."
            )
    if uses and placement.cpu_layers and not plan.dictated:
        said.append(
            f"With fewer than {placement.cpu_layers} layers on the CPU, "
            "no order of the devices in use takes the rest."
        )
    if plan.by_free_memory is not None and not plan.by_free_memory.fits:
        said.append(
            f"llama.cpp's own split by free memory, {_cut(plan.by_free_memory.placement)}, would not fit: "
            f"{_shortage(plan.by_free_memory.estimate)}."
        )
    said += [_beside(plan, other) for other in plan.alternatives]
    return tuple(said)


def _beside(plan: Plan, other: Alternative) -> str:
    name = other.name[0].upper() + other.name[1:]
    if not other.fits:
        return f"{name}: would not fit, {_shortage(other.estimate)}."
    saved = -sum(other.change_bytes.values())
    moved = other.placement.cpu_layers - plan.placement.cpu_layers
    layers = f", {abs(moved)} layers {'more' if moved > 0 else 'fewer'} on the CPU" if moved else ""
    verb = "free" if saved >= 0 else "take"
    return f"{name}: would {verb} {format_bytes(abs(saved))} on the devices{layers}."


def _shortage(estimate: Estimate) -> str:
    short = [
        f"{use.id} {format_bytes(use.over_bytes)} short" for use in estimate.devices if use.over_bytes > 0
    ]
    if estimate.host.over_bytes > 0:
        short.append(f"the computer's memory {format_bytes(estimate.host.over_bytes)} short")
    return ", ".join(short) or "more layers would have to stay on the CPU"


def _cut(placement: Placement) -> str:
    on_cpu = f", {placement.cpu_layers} layers on the CPU" if placement.cpu_layers else ""
    return f"{split_of(placement) or 'nothing on a device'}{on_cpu}"
