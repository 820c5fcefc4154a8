"""The plans beside the plan: what one change would buy or cost, and what llama.cpp would do by itself."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from vram_llm.errors import BadPlan, EngineDied, ModelRefused
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import resolve_context
from vram_llm.planner.llama_split import device_of_layers, placement_of
from vram_llm.planner.memory.analytic import is_pipelined, swa_cells
from vram_llm.planner.memory.compute_buffers import uses_flash_attention
from vram_llm.planner.search.search import Candidate, analytic, plan_placement
from vram_llm.planner.types import (
    Alternative,
    Context,
    Estimate,
    FlashAttention,
    MeterFor,
    Placement,
    Workload,
)
from vram_llm.units import format_count

MORE_CTX = 8192
_LAYERS_ASKED = 1200  # times devices: what the exact meter takes grows with both


def split_by_free_memory(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    exact: MeterFor | None = None,
) -> Alternative | None:
    """What llama.cpp does when told nothing: shares by free memory, nothing on the host."""
    if not any(device.free_bytes for device in machine.devices):
        return None
    shares = [float(device.free_bytes) for device in machine.devices]
    assignment = device_of_layers(profile.n_layers, -1, shares)
    placement = placement_of([device.id for device in machine.devices], assignment)
    if exact is not None:
        estimate, now = exact(chosen.context)(placement), chosen.estimate
    else:
        meter = analytic(profile, machine, workload, chosen.context)
        estimate, now = meter(placement), meter(chosen.placement)
    return _alternative("by free memory", Candidate(chosen.context, placement, estimate), now)


def alternatives(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    exact: MeterFor | None = None,
) -> tuple[Alternative, ...]:
    """The usual single changes to `chosen`, on the same devices in the same order.

    Each keeps the plan's layers where they fit, so that a difference is the change's own doing, and is placed
    anew where they do not. The exact meter is asked for as many as cost it about half a second, in order; the
    others, and what they are compared with, are the analytic one's.
    """
    wish = replace(workload, n_ctx=chosen.context.n_ctx, largest_ctx=False)
    ordered = _in_order(machine, chosen.placement) if wish.tensor_split is None else machine
    changes = list(_changes(profile, ordered, wish, chosen))
    n_asked = _LAYERS_ASKED // (profile.n_layers * max(len(chosen.placement.device_order), 1))
    n_asked = min(n_asked, len(changes)) if exact is not None else 0
    with ThreadPoolExecutor(max_workers=1) as asking:  # what is asked is another process, and slow
        waiting = [
            asking.submit(_changed, profile, rig, changed, chosen, exact)
            for _, rig, changed in changes[:n_asked]
        ]
        bound = analytic(profile, machine, wish, chosen.context)(chosen.placement)
        bounded = [
            _if_any(partial(_changed, profile, rig, changed, chosen, None))
            for _, rig, changed in changes[n_asked:]
        ]
        others = [*(_if_any(each.result) for each in waiting), *bounded]
    found: list[Alternative] = []
    for number, ((name, _, _), other) in enumerate(zip(changes, others, strict=True)):
        if other is None:
            continue
        beside = _alternative(name, other, chosen.estimate if number < n_asked else bound)
        if any(beside.change_bytes.values()) or other.placement != chosen.placement:
            found.append(beside)
    return tuple(found)


def _if_any(candidate: Callable[[], Candidate]) -> Candidate | None:
    """None where it cannot be had with this model."""
    try:
        return candidate()
    except (BadPlan, ModelRefused, EngineDied):
        return None


def _changed(
    profile: ModelProfile, rig: Machine, wish: Workload, chosen: Candidate, exact: MeterFor | None
) -> Candidate:
    context = resolve_context(profile, rig, wish)
    measure = exact(context) if exact is not None else analytic(profile, rig, wish, context)
    kept = chosen.placement
    if not kept.cpu_layers and {device.id for device in rig.devices}.issuperset(kept.device_order):
        estimate = measure(kept)
        if estimate.fits:
            return Candidate(context, kept, estimate)
    anew = plan_placement(profile, rig, wish, reorder=False).placement
    return Candidate(context, anew, measure(anew))


def _alternative(name: str, other: Candidate, now: Estimate) -> Alternative:
    """`other` beside what the chosen plan holds by the same meter."""
    before = {use.id: use.total_bytes for use in now.devices}
    after = {use.id: use.total_bytes for use in other.estimate.devices}
    return Alternative(
        name=name,
        context=other.context,
        placement=other.placement,
        estimate=other.estimate,
        fits=other.estimate.fits,
        change_bytes={each: after.get(each, 0) - before.get(each, 0) for each in {**before, **after}},
    )


def _changes(
    profile: ModelProfile, machine: Machine, wish: Workload, chosen: Candidate
) -> Iterator[tuple[str, Machine, Workload]]:
    context = chosen.context
    has_draft = wish.draft is not None  # its context would change with the model's: not offered
    if (context.kv_type_k, context.kv_type_v) == ("f16", "f16") and profile.kv_bytes_per_token:
        yield "KV cache as q8_0", machine, replace(wish, kv_type_k="q8_0", kv_type_v="q8_0")
    if is_pipelined(profile, context, machine.devices, chosen.placement):
        yield "no pipeline copies", machine, replace(wish, pipeline_copies=False)
    if context.n_ubatch > 64 and not has_draft:
        half = context.n_ubatch // 2
        yield f"micro-batches of {half}", machine, replace(wish, n_ubatch=half)
    if not has_draft:
        more = replace(wish, n_ctx=context.n_ctx + MORE_CTX)
        yield f"{format_count(MORE_CTX)} more context", machine, more
    used = [device for device in machine.devices if device.id in chosen.placement.device_order]
    bare = [device for device in used if not device.companion_bytes]
    if len(used) > 1 and bare and wish.tensor_split is None:
        spared = min(bare, key=lambda device: device.free_bytes)
        rest = tuple(device for device in machine.devices if device.id != spared.id)
        yield f"without {spared.id}", replace(machine, devices=rest), wish
    for name, changed in () if has_draft else _ways_to_attend(profile, machine, wish, context):
        yield name, machine, changed
    if context.n_outputs < context.n_ubatch:
        yield "logits of all tokens", machine, replace(wish, n_outputs_max=context.n_ubatch)


def _ways_to_attend(
    profile: ModelProfile, machine: Machine, wish: Workload, context: Context
) -> Iterator[tuple[str, Workload]]:
    """Other ways to keep and to read the past, where the model has any."""
    windowed = any(layer.sliding_window for layer in profile.layers)
    keeps_states = any(layer.recurrent_state_bytes for layer in profile.layers)
    if context.swa_full:
        yield "short window caches", replace(wish, swa_full=False)
    elif swa_cells(profile, context) < context.n_ctx and windowed:
        yield "full window caches", replace(wish, swa_full=True)
    if windowed or keeps_states:
        yield f"{2 * context.parallel} sequences", replace(wish, parallel=2 * context.parallel)
    if not profile.kv_bytes_per_token:
        return
    if context.flash_attn is FlashAttention.OFF:
        yield "flash attention", replace(wish, flash_attn=FlashAttention.AUTO)
    elif uses_flash_attention(profile, context, {device.kind for device in machine.devices}):
        yield "flash attention off", replace(wish, flash_attn=FlashAttention.OFF)
    if not context.kv_unified:
        yield "one KV cache for all", replace(wish, kv_unified=True)
    elif context.parallel > 1:
        yield "separate KV caches", replace(wish, kv_unified=False)


def _in_order(machine: Machine, placement: Placement) -> Machine:
    """The machine with the devices a placement uses first, in its order."""
    rank = {device_id: i for i, device_id in enumerate(placement.device_order)}
    devices = sorted(machine.devices, key=lambda device: rank.get(device.id, len(rank)))
    return replace(machine, devices=tuple(devices))
