"""Plans near the prediction's choice that may be faster: other splits, orders, micro-batches, threads.

A proposal is a choice for the planner, not yet a plan: the dry run says later whether it fits. Each source
of proposals is a function in SOURCES. Sources take turns, so that many equal splits leave room for others.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

from vram_llm.errors import BadPlan, BadSplit
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.llama_split import device_of_layers, placement_from_counts, placement_of
from vram_llm.planner.memory.analytic_meter import is_pipelined
from vram_llm.planner.overrides import Override
from vram_llm.planner.search.prompt_choice import SIZES
from vram_llm.planner.speed import Predictor
from vram_llm.planner.tuning.choice import TunedChoice, choice_of, workload_of
from vram_llm.planner.tuning.scores import MeasuredTimes, RequestShape
from vram_llm.planner.types import HOST, Alternative, Context, Placement, Plan, Workload
from vram_llm.units import format_count

_MOST_ORDERED = 4  # devices of which all orders are proposed
_MOST_OF_SOURCE = 60  # proposals of one source of which the speed is predicted
_LEAST_UBATCH = 128
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
class TuneFacts:
    """The facts that proposals are made of. `plan` is the prediction's choice for `workload`."""

    profile: ModelProfile
    machine: Machine
    workload: Workload
    plan: Plan
    thread_counts: tuple[int, ...] = ()  # worth trying on the host
    kv_types: tuple[str, ...] = ()  # that the user allows besides the workload's

    @property
    def is_free(self) -> bool:
        """Whether the user leaves the split to the planner."""
        return self.workload.tensor_split is None and not self.workload.overrides

    @property
    def shape(self) -> RequestShape:
        """The request by which candidates are weighed."""
        speed = self.plan.speed
        assert speed is not None
        return RequestShape(
            objective=self.workload.objective,
            streams=self.workload.expect_streams,
            prompt_tokens=speed.prompt_tokens,
        )


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
    if not facts.is_free or placement.overrides or not placement.device_order:
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
    if not facts.is_free or placement.overrides or not 2 <= len(places) <= _MOST_ORDERED:
        return
    counts = dict(zip(places, placement.layers_per_device, strict=True))
    for order in itertools.permutations(places):
        if order != places:
            yield named_split(facts, order, [counts[each] for each in order])


def host_parts(facts: TuneFacts) -> Iterator[Named]:
    """Experts or feed-forward weights of fewer layers on the host, or of more."""
    placement = facts.plan.placement
    if not facts.is_free or facts.workload.overrides is not None:
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


def micro_batches(facts: TuneFacts) -> Iterator[Named]:
    """Other numbers of tokens that are computed at a time."""
    context = facts.plan.context
    if facts.workload.n_ubatch is not None or facts.workload.draft is not None:
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
    orders,
    host_parts,
    micro_batches,
    threads,
    kv_types,
)
"""Another kind of candidate is one line here."""


def proposals(facts: TuneFacts) -> list[Proposal]:
    """All proposals that differ from the choice, the most promising first, sources in turns."""
    by_source, expected = [], _ExpectedTimes(facts)
    own = (facts.plan.context, facts.plan.placement)
    seen, most_s = {own}, _SLOWEST * expected.request_s(*own)
    for source in SOURCES:
        found = []
        for name, choice in itertools.islice(source(facts), _MOST_OF_SOURCE):
            try:
                parts = placed(facts, choice)
            except (BadPlan, BadSplit):
                continue
            if parts in seen:
                continue
            seen.add(parts)
            seconds = expected.request_s(*parts)
            if seconds <= most_s:
                found.append(Proposal(name=name, choice=choice, expected_s=seconds))
        by_source.append(sorted(found, key=lambda each: each.expected_s))
    return [each for turn in itertools.zip_longest(*by_source) for each in turn if each is not None]


class _ExpectedTimes:
    """Predicts the time of a typical request; candidates with the same context share a predictor."""

    def __init__(self, facts: TuneFacts) -> None:
        self._facts = facts
        self._predictors: dict[Context, Predictor] = {}

    def request_s(self, context: Context, placement: Placement) -> float:
        """The predicted time of a typical request of each stream."""
        facts = self._facts
        if context not in self._predictors:
            self._predictors[context] = Predictor(facts.profile, context, facts.machine, facts.workload)
        pipelined = is_pipelined(facts.profile, context, facts.machine.devices, placement)
        speed = self._predictors[context](placement, pipelined=pipelined)
        assert speed.prompt_s is not None
        step_s = speed.step_s if facts.shape.streams == 1 else speed.streams_step_s or speed.step_s
        return facts.shape.seconds(
            MeasuredTimes(step_s=step_s, prompt_token_s=speed.prompt_s / max(speed.prompt_tokens, 1))
        )


def placed(facts: TuneFacts, choice: TunedChoice) -> tuple[Context, Placement]:
    """The context and the placement of a choice. Raises BadPlan, BadSplit."""
    plan = facts.plan
    wish = workload_of(facts.workload, choice, plan.context.n_ctx)
    context = replace(plan.context, **_context_fields(choice))  # type: ignore[arg-type]  # fields of Context
    places = [device.id for device in facts.machine.devices]
    placement = plan.placement
    if wish.tensor_split is not None:
        order, shares = wish.tensor_split.over(places)
        wanted = -1 if wish.n_gpu_layers is None else wish.n_gpu_layers
        assignment = device_of_layers(facts.profile.n_layers, wanted, shares)
        placement = placement_of(order, assignment, wish.overrides or ())
    elif choice.n_gpu_layers == 0:
        placement = placement_of(places, [-1] * (facts.profile.n_layers + 1))
    return context, placement


def named_split(facts: TuneFacts, order: Sequence[str], counts: Sequence[int]) -> Named:
    """The split that puts `counts` layers on the devices in this order, the rest on the host."""
    used = [(device, count) for device, count in zip(order, counts, strict=True) if count]
    placement = placement_from_counts([id for id, _ in used], [n for _, n in used], facts.profile.n_layers)
    return split_name(placement), _choice(facts, placement)


def split_name(placement: Placement) -> str:
    """ "GPU1:38 GPU2:43", with layers on the host as "CPU:4"."""
    pairs = list(zip(placement.device_order, placement.layers_per_device, strict=True))
    on_host = [("CPU", placement.cpu_layers)] if placement.cpu_layers else []
    return " ".join(f"{place}:{count}" for place, count in (*on_host, *pairs)) or "the CPU alone"


def _choice(
    facts: TuneFacts, placement: Placement | None = None, context: Context | None = None
) -> TunedChoice:
    return choice_of(placement or facts.plan.placement, context or facts.plan.context)


def _context_fields(choice: TunedChoice) -> dict[str, object]:
    names = {each.name for each in fields(Context)} & {each.name for each in fields(choice)}
    given = {name: getattr(choice, name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


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
