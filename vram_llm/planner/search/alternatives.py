"""Plans that differ from the chosen one by one change, with their flags, and llama.cpp's own split."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from vram_llm.errors import BadPlan, EngineDied, ModelRefused
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import can_quantize_cache
from vram_llm.planner.estimates import Estimate
from vram_llm.planner.llama_split import device_of_layers, placement_flags, placement_of
from vram_llm.planner.memory.analytic_meter import is_pipelined, swa_cells
from vram_llm.planner.memory.backend_kernels import OFFLOADING_KINDS
from vram_llm.planner.memory.flash_attention import uses_flash_attention
from vram_llm.planner.mtp import has_draft
from vram_llm.planner.search.candidate import Candidate, analytic, uses_host
from vram_llm.planner.search.prompt_choice import plan_with_prompts
from vram_llm.planner.search.suggestions import longest_on_cards
from vram_llm.planner.types import Alternative, Context, FlashAttention, MeterFor, Objective, Workload
from vram_llm.units import format_count, typed_count

MORE_CTX = 8192
_MEASUREMENTS_WITH_HOST = 6  # of the exact meter for a placement with weights on the host
_LAYERS_MEASURED = 1200  # layers x devices: the exact meter's time grows with both


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadChange:
    """A workload or a machine that differs in one point from the user's."""

    name: str
    flags: tuple[str, ...] = ()  # that make the change; empty: the flags of its placement are used
    machine: Machine
    workload: Workload


def split_by_free_memory(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    exact: MeterFor | None = None,
) -> Alternative | None:
    """llama.cpp's default split: shares by free memory, no layer on the host."""
    if not any(device.free_bytes for device in machine.devices):
        return None
    shares = [float(device.free_bytes) for device in machine.devices]
    assignment = device_of_layers(profile.n_layers, -1, shares)
    placement = placement_of([device.id for device in machine.devices], assignment)
    if exact is not None:
        estimate, chosen_estimate = exact(chosen.context)(placement), chosen.estimate
    else:
        meter = analytic(profile, machine, workload, chosen.context)
        estimate, chosen_estimate = meter(placement), meter(chosen.placement)
    pinned = (*pinned_context(workload, chosen), *pinned_prompts(workload, chosen))
    flags = (*pinned, *placement_flags(placement))
    candidate = Candidate(chosen.context, placement, estimate)
    return alternative_to("by free memory", flags, candidate, chosen_estimate)


def alternatives(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    exact: MeterFor | None = None,
) -> tuple[Alternative, ...]:
    """Plans that differ from `chosen` by one usual change, with the flags that a user adds to get them.

    The exact meter measures the first ones, for about half a second in total. The analytic meter measures the
    others and, for comparison, the chosen plan.
    """
    pinned_workload = replace(workload, n_ctx=chosen.context.n_ctx, largest_ctx=False)
    changes = list(_changes(profile, machine, pinned_workload, chosen))
    n_exact = _LAYERS_MEASURED // (profile.n_layers * max(len(chosen.placement.device_order), 1))
    if uses_host(profile, chosen.placement):
        n_exact //= _MEASUREMENTS_WITH_HOST
    n_exact = min(n_exact, len(changes)) if exact is not None else 0
    with ThreadPoolExecutor(max_workers=1) as executor:  # the exact meter is another process, and slow
        futures = [executor.submit(_changed, profile, change, exact) for change in changes[:n_exact]]
        bound = analytic(profile, machine, pinned_workload, chosen.context)(chosen.placement)
        bounded = [_if_possible(partial(_changed, profile, change, None)) for change in changes[n_exact:]]
        candidates = [*(_if_possible(future.result) for future in futures), *bounded]
    pinned = pinned_context(workload, chosen)
    found: list[Alternative] = []
    for number, (change, candidate) in enumerate(zip(changes, candidates, strict=True)):
        if candidate is None:
            continue
        own = (*pinned_prompts(workload, candidate), *placement_flags(candidate.placement))
        flags = change.flags or own
        flags = flags if "--n-ctx" in flags else (*pinned, *flags)
        chosen_estimate = chosen.estimate if number < n_exact else bound
        alternative = alternative_to(change.name, flags, candidate, chosen_estimate)
        if any(alternative.change_bytes.values()) or candidate.placement != chosen.placement:
            found.append(alternative)
    return tuple(found)


def pinned_context(workload: Workload, chosen: Candidate) -> tuple[str, ...]:
    """The flags that keep the context's length, if the planner has chosen it."""
    is_chosen = workload.n_ctx is None or workload.largest_ctx
    return ("--n-ctx", typed_count(chosen.context.n_ctx)) if is_chosen else ()


def pinned_prompts(workload: Workload, chosen: Candidate) -> tuple[str, ...]:
    """The flags that keep copies for prompts and the micro-batch, if the planner has chosen them."""
    context = chosen.context
    if not context.op_offload or (workload.op_offload and workload.n_ubatch is not None):
        return ()
    return ("--op-offload", "--n-ubatch", str(context.n_ubatch))


def _if_possible(plan: Callable[[], Candidate]) -> Candidate | None:
    """The result of `plan`; None if the change is not possible with this model."""
    try:
        return plan()
    except (BadPlan, ModelRefused, EngineDied):
        return None


def _changed(profile: ModelProfile, change: WorkloadChange, exact: MeterFor | None) -> Candidate:
    return plan_with_prompts(profile, change.machine, change.workload, exact, reorder=bool(change.flags))


def alternative_to(
    name: str, flags: tuple[str, ...], candidate: Candidate, chosen_estimate: Estimate
) -> Alternative:
    """`candidate` as an alternative; `chosen_estimate` is the chosen plan's estimate by the same meter."""
    before = {use.id: use.total_bytes for use in chosen_estimate.devices}
    after = {use.id: use.total_bytes for use in candidate.estimate.devices}
    return Alternative(
        name=name,
        flags=flags,
        context=candidate.context,
        placement=candidate.placement,
        estimate=candidate.estimate,
        fits=candidate.estimate.fits,
        change_bytes={
            device_id: after.get(device_id, 0) - before.get(device_id, 0) for device_id in {**before, **after}
        },
    )


def _changes(
    profile: ModelProfile, machine: Machine, workload: Workload, chosen: Candidate
) -> Iterator[WorkloadChange]:
    def change(name: str, *flags: str, **fields: object) -> WorkloadChange:
        changed = replace(workload, **fields)  # type: ignore[arg-type]  # each call below has fields of Workload
        return WorkloadChange(name=name, flags=flags, machine=machine, workload=changed)

    context = chosen.context
    drafts = has_draft(workload)  # a draft model has the model's context, which then stays
    quantized_kv = {"kv_type_k": "q8_0", "kv_type_v": "q8_0"}
    can_quantize = can_quantize_cache(profile, workload)
    is_free = workload.tensor_split is None and workload.n_gpu_layers is None and not workload.overrides
    if uses_host(profile, chosen.placement) and not drafts and is_free:
        kv_types: list[tuple[tuple[str, ...], dict[str, str]]] = [((), {})]
        kv_types += [(("--kv-type", "q8_0"), quantized_kv)] if can_quantize else []
        for flags, fields in kv_types:
            typed = replace(workload, **fields)  # type: ignore[arg-type]  # they are KV types
            n_ctx = longest_on_cards(profile, machine, typed)
            if n_ctx is not None and n_ctx < context.n_ctx:
                all_flags = (*flags, "--n-ctx", typed_count(n_ctx))
                yield change("all layers on the cards", *all_flags, n_ctx=n_ctx, **fields)
    if chosen.placement.shares_layers_with_host and context.pooling is None:
        if context.op_offload:
            yield change("prompts without copies", "--no-op-offload", op_offload=False)
        elif any(device.kind in OFFLOADING_KINDS for device in machine.devices):
            yield change("prompts with copies", "--op-offload", op_offload=True)
    if can_quantize:
        yield change("KV cache as q8_0", "--kv-type", "q8_0", **quantized_kv)
    if is_pipelined(profile, context, machine.devices, chosen.placement):
        yield change("no pipeline copies", "--no-pipeline", pipeline_copies=False)
    if context.n_ubatch > 64 and not drafts:
        half = context.n_ubatch // 2
        yield change(f"micro-batches of {half}", "--n-ubatch", str(half), n_ubatch=half)
    trained = profile.context_length or context.n_ctx + MORE_CTX
    more = min(context.n_ctx + MORE_CTX, max(trained, context.n_ctx))
    if more > context.n_ctx and not drafts:
        name = f"{format_count(more - context.n_ctx)} more context"
        yield change(name, "--n-ctx", typed_count(more), n_ctx=more)
    used = [device for device in machine.devices if device.id in chosen.placement.device_order]
    removable = [device for device in used if not device.companion_bytes]
    if len(used) > 1 and removable and workload.tensor_split is None:
        removed = min(removable, key=lambda device: device.free_bytes)
        ordered = [next(d for d in used if d.id == device_id) for device_id in chosen.placement.device_order]
        ordered += [device for device in machine.devices if device not in used]
        rest = tuple(device for device in ordered if device.id != removed.id)
        yield WorkloadChange(
            name=f"without {removed.id}", machine=replace(machine, devices=rest), workload=workload
        )
    if len(machine.devices) > 1 and is_free:
        other = Objective.LATENCY if workload.objective is Objective.THROUGHPUT else Objective.THROUGHPUT
        yield change(f"{other} as the objective", "--objective", other, objective=other)
    if not drafts:
        yield from _attention_changes(profile, machine, workload, context, change)
    if context.n_outputs < context.n_ubatch:
        rows = context.n_ubatch
        yield change("logits of all tokens", "--n-outputs-max", str(rows), n_outputs_max=rows)


def _attention_changes(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    context: Context,
    change: Callable[..., WorkloadChange],
) -> Iterator[WorkloadChange]:
    """Changes of the KV cache and of attention that apply to this model."""
    has_windows = any(layer.sliding_window for layer in profile.layers)
    has_states = any(layer.recurrent_state_bytes for layer in profile.layers)
    if context.swa_full:
        yield change("short window caches", "--no-swa-full", swa_full=False)
    elif swa_cells(profile, context) < context.n_ctx and has_windows:
        yield change("full window caches", "--swa-full", swa_full=True)
    if has_windows or has_states:
        for n in (2 * context.parallel, *((1,) if context.parallel > 1 else ())):
            yield change(f"{n} sequences" if n > 1 else "one sequence", "--parallel", str(n), parallel=n)
    if not profile.kv_bytes_per_token:
        return
    if context.flash_attn is FlashAttention.OFF:
        yield change("flash attention", "--flash-attn", "auto", flash_attn=FlashAttention.AUTO)
    elif uses_flash_attention(profile, context, {device.kind for device in machine.devices}):
        yield change("flash attention off", "--flash-attn", "off", flash_attn=FlashAttention.OFF)
    if not context.kv_unified:
        yield change("one KV cache for all", "--kv-unified", kv_unified=True)
    elif context.parallel > 1:
        yield change("separate KV caches", "--no-kv-unified", kv_unified=False)
