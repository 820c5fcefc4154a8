"""Makes a Plan: placement, companions, speeds, alternatives and notes."""

from dataclasses import replace

from vram_llm.errors import BadPlan, DoesNotFit
from vram_llm.machine.types import Device, DeviceKind, Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import LayerPart
from vram_llm.planner import explain
from vram_llm.planner.companions import added_weights
from vram_llm.planner.context import wants_auto_context, wants_largest_context
from vram_llm.planner.context_price import ContextPrice
from vram_llm.planner.llama_split import split_of
from vram_llm.planner.locked_weights import check_lockable
from vram_llm.planner.override_check import checked_overrides, unmatched_notes
from vram_llm.planner.search.alternatives import (
    alternative_to,
    alternatives,
    pinned_context,
    split_by_free_memory,
)
from vram_llm.planner.search.auto_context import plan_auto_context
from vram_llm.planner.search.candidate import Candidate, expected_speed
from vram_llm.planner.search.idle_devices import idle_device_alternatives, idle_notes, link_notes
from vram_llm.planner.search.largest_context import plan_largest_context
from vram_llm.planner.search.on_card_context import on_card_prices
from vram_llm.planner.search.prompt_choice import choose_prompts, plan_with_prompts
from vram_llm.planner.search.search import plan_fewest_on_host
from vram_llm.planner.search.suggestions import find_suggestions
from vram_llm.planner.search.tensor_search import TensorChoice, choose_split_mode
from vram_llm.planner.speed_notes import speed_notes
from vram_llm.planner.sum_notes import sum_notes
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import (
    PLAN_VERSION,
    Alternative,
    Companion,
    MeterFor,
    Plan,
    PlannedDevice,
    PlannedModel,
    Serving,
    SpeedEstimate,
    Workload,
)
from vram_llm.units import GIB, format_bytes, format_count

ENOUGH_SLOTS_RAM_BYTES = 8 * GIB
_IDLE_SHARE = 0.02  # idle tokens' share of the weights that a step reads


def make_plan(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    exact: MeterFor | None = None,
    companions: tuple[Companion, ...] = (),
    *,
    compares: bool = True,
) -> Plan:
    """The plan for running `profile` on `machine` as `workload` asks.

    `exact` makes the meter that confirms the analytic meter's placement. `companions` have their devices, and
    `machine` counts their memory (companions.place_companions); adapters are the profile's. Without
    `compares` the plan has no alternatives, which take most of the time. Raises DoesNotFit with changes that
    fit, and BadSplit or BadPlan if the workload contradicts model or machine.
    """
    workload, machine = _with_checked_overrides(profile, machine, workload)
    chosen, more, prices = choose_candidate(profile, machine, workload, exact)
    split = choose_split_mode(profile, machine, workload, _with_load_mode(workload, chosen), exact)
    chosen = split.chosen
    companions = (*added_weights(profile, machine, workload, chosen.placement), *companions)
    if not chosen.estimate.fits:
        raise _does_not_fit(profile, machine, workload, chosen, companions, exact)
    check_lockable(profile, machine.host, chosen)

    def with_speed(other: Alternative) -> Alternative:
        return replace(other, speed=expected_speed(profile, machine, workload, other))

    by_free_memory, others = None, tuple[Alternative, ...]()
    if compares and not split.shares_tensors:
        by_free_memory = split_by_free_memory(profile, machine, workload, chosen, exact)
        others = (
            *alternatives(profile, machine, workload, chosen, exact),
            *idle_device_alternatives(profile, machine, workload, chosen),
        )
    plan = Plan(
        version=PLAN_VERSION,
        model=_planned_model(profile),
        devices=tuple(planned_device(device, workload.reserve_bytes) for device in machine.devices),
        context=chosen.context,
        placement=chosen.placement,
        estimate=chosen.estimate,
        fits=True,
        dictated=workload.tensor_split is not None or workload.n_gpu_layers is not None,
        by_free_memory=None if by_free_memory is None else with_speed(by_free_memory),
        alternatives=tuple(with_speed(other) for other in (*_by_other_mode(workload, split), *others)),
        companions=companions,
        objective=workload.objective,
        speed=expected_speed(profile, machine, workload, chosen),
        speed_at_end=_speed_at_end(profile, machine, workload, chosen),
        context_prices=_context_prices(profile, machine, workload, chosen, prices),
        notes=(
            *split.notes,
            *explain.notes(profile, machine, chosen, None if split.shares_tensors else more),
            *_notes(profile, machine, workload, chosen, companions),
        ),
        serving=_serving(workload.serving, profile, chosen, machine),
        host=machine.host,
    )
    return replace(plan, notes=(*plan.notes, *sum_notes(plan), *idle_notes(plan), *link_notes(plan)))


def _notes(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    companions: tuple[Companion, ...],
) -> tuple[str, ...]:
    """Notes on a plan by whatever split mode."""
    return (
        *_shortened(profile, workload, chosen),
        *explain.unmapped(profile, workload),
        *explain.left_out(machine, companions),
        *speed_notes(machine, chosen.placement),
    )


def _by_other_mode(workload: Workload, split: TensorChoice) -> tuple[Alternative, ...]:
    """The plan with the other split mode, and its flags."""
    if (other := split.other) is None:
        return ()
    mode, shares = other.placement.split_mode, split_of(other.placement)
    pinned = pinned_context(workload, split.chosen)
    flags = (*pinned, "--split-mode", mode.value, "--tensor-split", str(shares))
    return (alternative_to(f"split by {mode.value}s", flags, other, split.chosen.estimate),)


def _context_prices(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    prices: tuple[ContextPrice, ...],
) -> tuple[ContextPrice, ...]:
    """Prices of other contexts; none for a tensor split, whose bytes only a dry run counts."""
    if chosen.placement.split_mode is SplitMode.TENSOR:
        return ()
    return (*prices, *on_card_prices(profile, machine, workload, chosen))


def _with_checked_overrides(
    profile: ModelProfile, machine: Machine, workload: Workload
) -> tuple[Workload, Machine]:
    """`workload` with its overrides in their normal form; notes of `machine` say which move nothing.

    Raises BadPlan.
    """
    if workload.overrides is None:
        return workload, machine
    checked = replace(workload, overrides=checked_overrides(profile, machine, workload.overrides))
    notes = unmatched_notes(profile, workload.overrides)
    return checked, replace(machine, notes=(*machine.notes, *notes))


def _with_load_mode(workload: Workload, chosen: Candidate) -> Candidate:
    """`chosen`, which maps the file unless that costs speed.

    llama.cpp puts weights of the host into memory that cards copy from fastest (make_cpu_buft_list), or
    repacks them for the processor, but not in place: repacked weights of a mapped file are in memory twice.
    """
    if workload.use_mmap is not None or workload.mlock or not chosen.placement.shares_layers_with_host:
        return chosen
    return replace(chosen, context=replace(chosen.context, use_mmap=False))


def choose_candidate(
    profile: ModelProfile, machine: Machine, workload: Workload, exact: MeterFor | None
) -> tuple[Candidate, Candidate | None, tuple[ContextPrice, ...]]:
    """The placement, the one of one step more context, which does not fit, and prices of other contexts."""
    if wants_largest_context(workload):
        chosen, more = plan_largest_context(profile, machine, workload, exact)
        return choose_prompts(profile, machine, workload, chosen, exact), more, ()
    if wants_auto_context(profile, workload):
        chosen, prices = plan_auto_context(profile, machine, workload, exact)
        return chosen, None, prices
    return plan_with_prompts(profile, machine, workload, exact), None, ()


def _does_not_fit(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    companions: tuple[Companion, ...],
    exact: MeterFor | None,
) -> DoesNotFit:
    """The error for a model that does not fit: the short memory, and a plan that would fit.

    If the planner may put layers on the host, the host's memory is short: the devices hold what they can.
    """
    suggestions = find_suggestions(profile, machine, workload, chosen, exact)
    is_free = workload.n_gpu_layers is None and workload.tensor_split is None
    if is_free and machine.devices and chosen.estimate.host.over_bytes <= 0:
        chosen = plan_fewest_on_host(profile, machine, workload, chosen.context)
    return DoesNotFit(
        explain.refusal(profile, machine, workload, chosen, suggestions, companions),
        short_bytes=chosen.estimate.short_bytes,
        suggestions=suggestions,
        host_is_short=chosen.estimate.host.over_bytes > 0,
    )


def _planned_model(profile: ModelProfile) -> PlannedModel:
    return PlannedModel(
        path=str(profile.shards[0].path),
        name=profile.name,
        architecture=profile.architecture,
        quantization=profile.quantization,
        n_layers=profile.n_layers,
        total_bytes=profile.total_bytes,
        context_length=profile.context_length or None,
        expert_layers=profile.layers_with(LayerPart.EXPERTS),
        ffn_layers=profile.layers_with(LayerPart.FFN),
        kv_overrides=profile.overrides,
        files=profile.files,
    )


def planned_device(device: Device, reserve_bytes: int) -> PlannedDevice:
    """A device in the form of a plan, with the reserve."""
    facts = {name: getattr(device, name) for name in device.__dataclass_fields__}
    return PlannedDevice(**facts, reserve_bytes=reserve_bytes)


def _speed_at_end(
    profile: ModelProfile, machine: Machine, workload: Workload, chosen: Candidate
) -> SpeedEstimate | None:
    """The speed with a full context in each stream; None for embeddings, which read no past."""
    if chosen.context.pooling is not None:
        return None
    at_end = replace(workload, expect_depth=chosen.context.n_ctx_seq)
    return expected_speed(profile, machine, at_end, chosen)


def _shortened(profile: ModelProfile, workload: Workload, chosen: Candidate) -> tuple[str, ...]:
    """A note on a context that is shorter than the default."""
    usual = min(Workload.DEFAULT_N_CTX, profile.context_length or Workload.DEFAULT_N_CTX)
    if not wants_auto_context(profile, workload) or chosen.context.n_ctx >= usual:
        return ()
    n_ctx = format_count(chosen.context.n_ctx)
    return (f"{format_count(usual)} tokens of context do not fit: the plan has {n_ctx}",)


def _serving(wanted: Serving, profile: ModelProfile, chosen: Candidate, machine: Machine) -> Serving:
    """`wanted` with every choice made.

    `slots_ram_bytes` is a quarter of the host's free memory, at most 8 GiB. It is 0 if a worker holds layers:
    states would cross the network, and all requests would wait. Every step reads idle tokens as it reads
    weights, so idle tokens may take 2 % of the bytes of the weights.
    """
    if kv_bytes := profile.kv_bytes_per_token:
        wanted = replace(wanted, idle_tokens=round(_IDLE_SHARE * profile.active_bytes_per_token / kv_bytes))
    left = max(-chosen.estimate.host.over_bytes, 0)
    if chosen.placement.split_mode is SplitMode.TENSOR:  # states of shared recurrent tensors were not tried
        return replace(wanted, slots_ram_bytes=0, slots_disk_bytes=0)
    used = [device for device in machine.devices if device.id in chosen.placement.device_order]
    if wanted.slots_ram_bytes is None and any(device.kind is DeviceKind.RPC for device in used):
        return replace(wanted, slots_ram_bytes=0)
    if wanted.slots_ram_bytes is None:
        return replace(wanted, slots_ram_bytes=min(ENOUGH_SLOTS_RAM_BYTES, left // 4))
    if wanted.slots_ram_bytes > left:
        raise BadPlan(
            f"--slots-ram asks for {format_bytes(wanted.slots_ram_bytes)} and the host has "
            f"{format_bytes(left)} left; ask for less, or lower --reserve-mib"
        )
    return wanted
