"""Plans near the prediction's choice that may be faster: other splits, split modes, micro-batches, drafts.

A proposal is a choice for the planner, not yet a plan: the dry run says later whether it fits. Each source
of proposals is a function in SOURCES. Sources take turns, so that many equal splits leave room for others.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from vram_llm.errors import BadPlan, BadSplit
from vram_llm.planner.llama_split import placement_from_counts, tensor_placement
from vram_llm.planner.mtp import has_draft
from vram_llm.planner.overrides import Override
from vram_llm.planner.search.prompt_choice import SIZES
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.tuning.choice import TunedChoice, choice_of
from vram_llm.planner.tuning.expected_times import ExpectedTimes
from vram_llm.planner.tuning.facts import TuneFacts, placed
from vram_llm.planner.types import HOST, Alternative, Context, Placement, Workload
from vram_llm.units import format_count

_MOST_ORDERED = 4  # devices of which all orders are proposed
_MOST_OF_SOURCE = 60  # proposals of one source of which the speed is predicted
_LEAST_UBATCH = 128
_TENSOR_PARTS = 64  # shares of tensors are multiples of 1/64
_MOVED_PARTS = (4, 8, 2)
_SLOWEST = 2.0  # times the choice's predicted time; slower ones are left out
# A candidate may differ from the choice in these; all else is the user's, or changes what the model answers.
_FREE_OF_CONTEXT = {
    "n_batch",
    "n_ubatch",
    "n_threads",
    "pipeline_copies",
    "op_offload",
    "flash_attn",
    "use_mmap",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A candidate by its name, its choice, and the predicted time of a typical request."""

    name: str
    choice: TunedChoice
    expected_s: float


Named = tuple[str, TunedChoice]
ProposalSource = Callable[[TuneFacts], Iterator[Named]]


def splits(facts: TuneFacts) -> Iterator[Named]:
    """Some layers more on one device and fewer on another, idle ones too, and on a host that has layers."""
    placement = facts.plan.placement
    if not facts.splits_layers or placement.overrides or not placement.device_order:
        return
    idle = [device.id for device in facts.machine.devices if device.id not in placement.device_order]
    places = (*placement.device_order, *idle)
    counts = (*placement.layers_per_device, *(0 for _ in idle))
    on_host = placement.cpu_layers
    first = -1 if on_host and facts.workload.n_gpu_layers is None else 0
    n_layers, sizes = facts.profile.n_layers, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    for size in (size for size in sizes if size <= max(n_layers // 2, 1)):
        for taken, given in itertools.permutations(range(first, len(places)), 2):
            moved = [on_host, *counts]
            moved[taken + 1] -= size
            moved[given + 1] += size
            if min(moved) >= 0:
                yield named_split(facts, places, moved[1:])


def orders(facts: TuneFacts) -> Iterator[Named]:
    """The same numbers of layers with the devices in another order."""
    placement = facts.plan.placement
    places = placement.device_order
    if not facts.splits_layers or placement.overrides or not 2 <= len(places) <= _MOST_ORDERED:
        return
    counts = dict(zip(places, placement.layers_per_device, strict=True))
    for order in itertools.permutations(places):
        if order != places:
            yield named_split(facts, order, [counts[each] for each in order])


def host_parts(facts: TuneFacts) -> Iterator[Named]:
    """Experts or feed-forward weights of fewer layers on the host, or of more."""
    placement = facts.plan.placement
    if not facts.splits_layers or facts.workload.overrides is not None:
        return
    for index, override in enumerate(placement.overrides):
        if override.device != HOST or override.part is None:
            continue
        taken = {layer for each in placement.overrides for layer in each.layers}
        others = [layer for layer in range(facts.profile.n_layers) if layer not in taken]
        for size in (1, 2, 4, 8):
            for layers in (override.layers[:-size], (*override.layers, *others[:size])):
                if not layers or (len(layers) > len(override.layers) and len(others) < size):
                    continue
                changed = Override.of(override.part, layers, HOST)
                overrides = (*placement.overrides[:index], changed, *placement.overrides[index + 1 :])
                other = replace(placement, overrides=overrides)
                yield f"{override.part} of {len(layers)} layers on the CPU", _choice(facts, other)


def alternatives(facts: TuneFacts) -> Iterator[Named]:
    """The plan's own alternatives that answer alike: without a device, other objectives, other copies."""
    plan = facts.plan
    others = (*plan.alternatives, *([plan.by_free_memory] if plan.by_free_memory else []))
    for other in others:
        if not other.fits or not _answers_alike(facts, other.context):
            continue
        if other.placement != plan.placement and not _may_place(facts, other):
            continue
        yield other.name, choice_of(other.placement, other.context)


def tensor_splits(facts: TuneFacts) -> Iterator[Named]:
    """The planner's tensor split, the same with equal shares, and with parts of one device on another."""
    if (found := facts.by_tensors) is None or facts.workload.tensor_split is not None:
        return
    ids, shares = found.placement.device_order, found.placement.tensor_split
    parts = [max(round(share * _TENSOR_PARTS / sum(shares)), 1) for share in shares]
    seen = set[str]()
    for counts in (shares, (1,) * len(ids), *_moved(parts)):
        placement = tensor_placement(ids, counts, facts.profile.n_layers)
        if (name := split_name(placement)) not in seen:
            yield name, choice_of(placement, found.context)
        seen.add(name)


def drafts(facts: TuneFacts) -> Iterator[Named]:
    """Drafts by the model's own head, or none."""
    if (found := facts.other_draft) is None:
        return
    choice = replace(choice_of(found.placement, found.context), draft=facts.other_draft_name)
    yield ("with the MTP head" if found.context.n_mtp else "without drafts"), choice


def micro_batches(facts: TuneFacts) -> Iterator[Named]:
    """Other numbers of tokens that are computed at a time."""
    context = facts.plan.context
    if facts.workload.n_ubatch is not None or has_draft(facts.workload):
        return
    for size in (_LEAST_UBATCH, 256, *SIZES):
        if size != context.n_ubatch and size <= context.n_ctx:
            changed = replace(context, n_ubatch=size, n_batch=max(context.n_batch, size))
            if facts.workload.n_batch is None or size <= context.n_batch:
                yield f"micro-batches of {format_count(size)}", _choice(facts, context=changed)


def threads(facts: TuneFacts) -> Iterator[Named]:
    """Other numbers of threads on the host, if it computes layers."""
    placement, context = facts.plan.placement, facts.plan.context
    computes = placement.shares_layers_with_host or not any(placement.layers_per_device)
    if facts.workload.n_threads is not None or not computes:
        return
    for count in facts.thread_counts:
        if count != context.n_threads:
            yield f"{count} threads", choice_of(placement, context, n_threads=count)


def kv_types(facts: TuneFacts) -> Iterator[Named]:
    """The KV types that the user allows."""
    for name in facts.kv_types:
        changed = replace(facts.plan.context, kv_type_k=name, kv_type_v=name)
        if changed != facts.plan.context:
            yield f"KV cache as {name}", _choice(facts, context=changed)


SOURCES: tuple[ProposalSource, ...] = (
    splits,
    alternatives,
    tensor_splits,
    drafts,
    orders,
    host_parts,
    micro_batches,
    threads,
    kv_types,
)
"""Another kind of candidate is one line here."""


def proposals(facts: TuneFacts) -> list[Proposal]:
    """All proposals that differ from the choice, the most promising first, sources in turns."""
    by_source, expected = [], ExpectedTimes(facts)
    own = (facts.plan.context, facts.plan.placement)
    seen = {(*own, choice_of(own[1], own[0]).draft)}
    most_s = _SLOWEST * expected.request_s(*own)
    for source in SOURCES:
        found = []
        for name, choice in itertools.islice(source(facts), _MOST_OF_SOURCE):
            try:
                parts = placed(facts, choice)
            except (BadPlan, BadSplit):
                continue
            if (*parts, choice.draft) in seen:
                continue
            seen.add((*parts, choice.draft))
            seconds = expected.request_s(*parts)
            if seconds <= most_s:
                found.append(Proposal(name=name, choice=choice, expected_s=seconds))
        by_source.append(sorted(found, key=lambda each: each.expected_s))
    return [each for turn in itertools.zip_longest(*by_source) for each in turn if each is not None]


def _moved(parts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """`parts` with some of one device on another."""
    for size in _MOVED_PARTS:
        for taken, given in itertools.permutations(range(len(parts)), 2):
            moved = list(parts)
            moved[taken] -= size
            moved[given] += size
            if moved[taken] > 0:
                yield tuple(moved)


def named_split(facts: TuneFacts, order: Sequence[str], counts: Sequence[int]) -> Named:
    """The split that puts `counts` layers on the devices in this order, the rest on the host."""
    used = [(device, count) for device, count in zip(order, counts, strict=True) if count]
    placement = placement_from_counts([id for id, _ in used], [n for _, n in used], facts.profile.n_layers)
    return split_name(placement), _choice(facts, placement)


def split_name(placement: Placement) -> str:
    """ "GPU1:38 GPU2:43", with layers on the host as "CPU:4"; by tensors "tensors GPU1:75% GPU2:25%"."""
    if placement.split_mode is SplitMode.TENSOR:
        n_all = sum(placement.tensor_split)
        shares = zip(placement.device_order, placement.tensor_split, strict=True)
        return " ".join(["tensors", *(f"{place}:{share / n_all:.0%}" for place, share in shares)])
    pairs = list(zip(placement.device_order, placement.layers_per_device, strict=True))
    on_host = [("CPU", placement.cpu_layers)] if placement.cpu_layers else []
    return " ".join(f"{place}:{count}" for place, count in (*on_host, *pairs)) or "the CPU alone"


def _choice(
    facts: TuneFacts, placement: Placement | None = None, context: Context | None = None
) -> TunedChoice:
    return choice_of(placement or facts.plan.placement, context or facts.plan.context)


def _may_place(facts: TuneFacts, other: Alternative) -> bool:
    """Whether the user leaves the placement so open that another one is allowed."""
    n_given, overrides = facts.workload.n_gpu_layers, facts.workload.overrides
    same_count = n_given is None or other.placement.n_gpu_layers == facts.plan.placement.n_gpu_layers
    return facts.is_free and same_count and (overrides is None or not other.placement.overrides)


def _answers_alike(facts: TuneFacts, other: Context) -> bool:
    """Whether a context differs from the plan's only in points that the user leaves open."""
    own, workload = facts.plan.context, facts.workload
    for each in fields(Context):
        if getattr(own, each.name) == getattr(other, each.name):
            continue
        is_kv = each.name in ("kv_type_k", "kv_type_v")
        if is_kv and getattr(other, each.name) in facts.kv_types:
            continue
        if each.name not in _FREE_OF_CONTEXT or _is_given(workload, each.name):
            return False
    return True


def _is_given(workload: Workload, name: str) -> bool:
    """Whether the user sets a point of the context that candidates may otherwise change."""
    return bool(getattr(workload, name) != getattr(Workload(), name))
