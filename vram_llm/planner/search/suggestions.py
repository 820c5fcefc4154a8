"""Changes that make a model fit, with their flags; changes that keep it on the cards come first."""

from collections.abc import Iterator
from dataclasses import replace

from vram_llm.errors import BadPlan, ModelRefused, Suggestion
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import can_quantize_cache, ctx_step
from vram_llm.planner.llama_split import placement_flags
from vram_llm.planner.memory.analytic_meter import is_pipelined
from vram_llm.planner.override_text import FLAG, NONE
from vram_llm.planner.placed_parts import listed, on_host
from vram_llm.planner.search.candidate import Candidate
from vram_llm.planner.search.largest_context import plan_largest_context
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.speed import Predictor
from vram_llm.planner.types import HOST, MeterFor, Workload
from vram_llm.units import MIB, typed_count

_QUANTIZED_KV = "q8_0"


def find_suggestions(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    refused: Candidate,
    exact: MeterFor | None = None,
) -> tuple[Suggestion, ...]:
    """Changes that make `workload` fit; changes that keep all layers on the cards come first.

    `refused` is the workload's placement that is least over its budgets; a smaller reserve is computed from
    it. The analytic meter finds the changes. An exact meter, if given, must confirm them, and decides how
    many layers are on the CPU.
    """
    suggestions: list[Suggestion] = []
    for changed, flags in _changes(profile, machine, workload, refused):
        try:
            other = plan_placement(profile, machine, changed, exact)
        except (BadPlan, ModelRefused):
            continue
        if not other.estimate.fits:
            continue
        flags = flags or (*_without_overrides(workload), *placement_flags(other.placement))
        suggestion = _suggestion(profile, machine, changed, other, flags)
        if not any(_is_no_worse(known, suggestion) for known in suggestions):
            suggestions.append(suggestion)
    return tuple(sorted(suggestions, key=lambda suggestion: suggestion.n_on_cpu > 0))


def _without_overrides(workload: Workload) -> tuple[str, ...]:
    """The flags that remove the user's overrides."""
    return (FLAG, NONE) if workload.overrides else ()


def _changes(
    profile: ModelProfile, machine: Machine, workload: Workload, refused: Candidate
) -> Iterator[tuple[Workload, tuple[str, ...]]]:
    """Workloads that may fit, each with its flags; with no flags, the flags of its placement are used."""
    n_wanted = refused.context.n_ctx
    free = replace(workload, tensor_split=None, n_gpu_layers=None, overrides=None)
    if free != workload:
        yield free, ()
    quantized = replace(workload, kv_type_k=_QUANTIZED_KV, kv_type_v=_QUANTIZED_KV)
    kv_flags = ("--kv-type", _QUANTIZED_KV)
    by_kv_type: list[tuple[Workload, tuple[str, ...]]] = [(workload, ())]
    by_kv_type += [(quantized, kv_flags)] if can_quantize_cache(profile, workload) else []
    for changed, flags in by_kv_type:
        if flags:
            yield replace(changed, n_ctx=n_wanted, largest_ctx=False), flags
        n_ctx = longest_on_cards(profile, machine, changed)
        if n_ctx is not None and n_ctx < n_wanted:
            yield replace(changed, n_ctx=n_ctx, largest_ctx=False), (*flags, "--n-ctx", typed_count(n_ctx))
    if (n_ctx := _longest(profile, machine, workload, n_wanted)) is not None:
        yield replace(workload, n_ctx=n_ctx, largest_ctx=False), ("--n-ctx", typed_count(n_ctx))
    if workload.reserve_bytes:
        estimate = refused.estimate
        over = max(estimate.host.over_bytes, *(use.over_bytes for use in estimate.devices), 0)
        reserve_mib = max(workload.reserve_bytes - over, 0) // MIB
        yield (
            replace(workload, reserve_bytes=reserve_mib * MIB),
            ("--reserve-mib", str(reserve_mib)),
        )


def longest_on_cards(profile: ModelProfile, machine: Machine, workload: Workload) -> int | None:
    """The longest context that fits with no weights on the host, except those that the user puts there."""
    if not machine.devices:
        return None
    if workload.overrides is None:
        workload = replace(workload, overrides=())
    longest, _ = plan_largest_context(profile, machine, workload)
    is_on_cards = workload.n_gpu_layers is not None or not longest.placement.cpu_layers
    if not longest.estimate.fits or not is_on_cards or longest.placement.output_device == HOST:
        return None
    return longest.context.n_ctx


def _longest(profile: ModelProfile, machine: Machine, workload: Workload, n_wanted: int) -> int | None:
    """The longest context below `n_wanted` that fits, with any number of layers on the host.

    It is at most the trained length.
    """
    step = ctx_step(workload)
    low, high = 0, min(n_wanted - 1, profile.context_length or n_wanted) // step
    while low < high:
        middle = (low + high + 1) // 2
        shorter = replace(workload, n_ctx=middle * step, largest_ctx=False)
        if plan_placement(profile, machine, shorter).estimate.fits:
            low = middle
        else:
            high = middle - 1
    return low * step or None


def _suggestion(
    profile: ModelProfile, machine: Machine, workload: Workload, other: Candidate, flags: tuple[str, ...]
) -> Suggestion:
    pipelined = is_pipelined(profile, other.context, machine.devices, other.placement)
    speed = Predictor(profile, other.context, machine, workload)(other.placement, pipelined=pipelined)
    host = on_host(other.placement)
    return Suggestion(
        flags=flags,
        n_ctx=other.context.n_ctx,
        n_layers=profile.n_layers,
        cpu_layers=host.n_layers,
        cpu_parts=host.n_with_weights - host.n_layers,
        on_cpu=listed(host.phrases(profile.n_layers)) if host.parts else "",
        tokens_per_s=speed.tokens_per_s,
    )


def _is_no_worse(known: Suggestion, suggestion: Suggestion) -> bool:
    return known.n_ctx >= suggestion.n_ctx and known.n_on_cpu <= suggestion.n_on_cpu
