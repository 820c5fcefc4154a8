"""Whether prompts copy the host's weights to a card, and how many tokens a micro-batch has.

Without copies the host computes prompts with its weights, and its arithmetic decides how long they take. With
copies (op_offload) the first card of the list computes, and its link decides: each micro-batch sends the
weights once. A larger micro-batch sends them less often, but its buffers take room of weights, which move to
the host, so that every token takes longer.

The rule: a typical request has the prompt of the predicted speeds (`--expect-depth`, else 2,048 tokens) and
an answer of 512 tokens. The planner takes what makes this request shortest, if the time is noticeably shorter
and decoding keeps at least 90 % of its speed. With THROUGHPUT as the objective the prompt alone decides.
Without copies the micro-batch keeps its default, because it gains nothing where arithmetic decides.

The analytic meter compares, and an exact meter, if given, confirms. Nothing is chosen for a plan without
weights of layers on the host, for embeddings, for weights that are read from the disk, or if the steps of all
sequences together have 32 rows or more, for which decoding would copy weights too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import DRAFTED_TOKENS, resolve_context
from vram_llm.planner.layer_times import used_share, weights_of
from vram_llm.planner.memory.moved_weights import moved_by_layer
from vram_llm.planner.mtp import has_draft
from vram_llm.planner.search.candidate import Candidate, expected_speed
from vram_llm.planner.search.search import plan_placement
from vram_llm.planner.speed import OFFLOAD_MIN_ROWS, Predictor
from vram_llm.planner.types import HOST, MeterFor, Objective, SpeedEstimate, Workload

SIZES = (512, 1024, 2048, 4096, 8192)  # of a micro-batch, in tokens
_MAX_COST = 0.1  # of the tokens per second
_WORTH_CHOOSING = 0.98  # a choice must take less than this share of the default's time
_FASTER_COPIES = 0.9  # another card may come first if copies to it take less than this share of the time


def plan_with_prompts(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    exact: MeterFor | None = None,
    *,
    reorder: bool = True,
) -> Candidate:
    """`plan_placement` with the choice of copies and micro-batches. Raises BadSplit, BadPlan."""
    chosen = plan_placement(profile, machine, workload, exact, reorder=reorder)
    return choose_prompts(profile, machine, workload, chosen, exact, reorder=reorder)


def choose_prompts(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    chosen: Candidate,
    exact: MeterFor | None = None,
    *,
    reorder: bool = True,
) -> Candidate:
    """`chosen`, whose workload leaves the choice open, or a better plan with the same context length.

    With `reorder`, another card may come first, to which copies are faster.
    """
    if not is_open(profile, workload, chosen):
        return chosen
    pinned = replace(workload, n_ctx=chosen.context.n_ctx, largest_ctx=False)
    default = chosen
    if exact is not None:  # like with like: the analytic meter overestimates
        default = plan_placement(profile, machine, pinned, reorder=reorder)
    search = _PromptSearch(profile, machine, pinned, default, reorder=reorder)
    for planned in search.best_first():
        if exact is None:
            return planned.candidate
        way = planned.way
        found = plan_placement(profile, way.machine, way.workload, exact, reorder=way.reorder)
        if is_better(profile, machine, workload, found, chosen):
            return found
    return chosen


def is_open(profile: ModelProfile, workload: Workload, chosen: Candidate) -> bool:
    """Whether there is something to choose for a plan: see the rule above."""
    context = chosen.context
    is_told = workload.op_offload is False or (workload.op_offload and workload.n_ubatch is not None)
    if is_told or workload.from_disk or context.pooling is not None or not chosen.estimate.fits:
        return False
    if not chosen.placement.shares_layers_with_host:
        return False
    rows = context.parallel * (1 + DRAFTED_TOKENS if has_draft(workload) else 1)
    return bool(workload.op_offload) or rows < OFFLOAD_MIN_ROWS


def is_better(
    profile: ModelProfile, machine: Machine, workload: Workload, candidate: Candidate, default: Candidate
) -> bool:
    """Whether `candidate` fits, is noticeably faster by the rule, and decodes nearly as fast."""
    if not candidate.estimate.fits:
        return False
    own, before = (expected_speed(profile, machine, workload, each) for each in (candidate, default))
    if _seconds(own, workload.objective) >= _WORTH_CHOOSING * _seconds(before, workload.objective):
        return False
    return workload.objective is Objective.THROUGHPUT or own.step_s * (1 - _MAX_COST) <= before.step_s


def _seconds(speed: SpeedEstimate, objective: Objective) -> float:
    """The time of a typical request; with THROUGHPUT, of its prompt."""
    assert speed.prompt_s is not None
    return speed.prompt_s + (
        0 if objective is Objective.THROUGHPUT else Workload.DEFAULT_ANSWER * speed.step_s
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """A machine, whose first card copies, and a workload to plan for."""

    machine: Machine
    workload: Workload
    reorder: bool
    least_s: float  # about the time of a request if its buffers took no room


@dataclass(frozen=True, slots=True)
class _PlannedWay:
    """A way and its plan by the analytic meter."""

    way: _Way
    candidate: Candidate
    seconds: float  # of a request


class _PromptSearch:
    """Finds the plans with copies that are better than `default`, which has the workload's context length."""

    def __init__(
        self,
        profile: ModelProfile,
        machine: Machine,
        workload: Workload,
        default: Candidate,
        *,
        reorder: bool,
    ) -> None:
        self._profile, self._machine, self._workload = profile, machine, workload
        self._default, self._reorder = default, reorder

    def best_first(self) -> list[_PlannedWay]:
        """The plans that are better than the default by the analytic meter, the fastest first."""
        found: list[_PlannedWay] = []
        least_s = _WORTH_CHOOSING * self._seconds(self._default)
        for way in sorted(self._ways(), key=lambda way: way.least_s):
            if way.least_s >= least_s:
                break  # with room for its buffers it would not be faster either
            candidate = plan_placement(self._profile, way.machine, way.workload, reorder=way.reorder)
            if is_better(self._profile, self._machine, self._workload, candidate, self._default):
                found.append(_PlannedWay(way, candidate, self._seconds(candidate)))
                least_s = min(least_s, found[-1].seconds)
        return sorted(found, key=lambda planned: planned.seconds)

    def _seconds(self, candidate: Candidate) -> float:
        speed = expected_speed(self._profile, self._machine, self._workload, candidate)
        return _seconds(speed, self._workload.objective)

    def _ways(self) -> Iterator[_Way]:
        """Each size of a micro-batch with each card first to which copies are not slower."""
        default, order = self._default, self._default.placement.device_order
        for n_ubatch in self._sizes():
            workload = replace(self._workload, op_offload=True, n_ubatch=n_ubatch)
            context = resolve_context(self._profile, self._machine, workload)
            predictor = Predictor(self._profile, context, self._machine, workload)
            if (first := predictor.offload_device(order)) is None:
                return
            least_s = self._seconds(replace(default, context=context))
            yield _Way(self._machine, workload, self._reorder, least_s)
            if not self._reorder or workload.tensor_split is not None:
                continue
            n_micro = -(-predictor.prompt_tokens // context.n_ubatch)
            sent_s = self._sent_s(predictor, first, context.n_ubatch)
            for device_id in order[order.index(first) + 1 :]:
                other_s = self._sent_s(predictor, device_id, context.n_ubatch)
                if predictor.offload_device((device_id,)) and other_s < _FASTER_COPIES * sent_s:
                    other_least_s = least_s + n_micro * (other_s - sent_s)
                    yield _Way(self._with_first(device_id), workload, False, other_least_s)

    def _sent_s(self, predictor: Predictor, device_id: str, n_rows: int) -> float:
        """Seconds of a micro-batch for the default's weights on the host if this device gets copies."""
        layers, placement = self._profile.layers, self._default.placement
        on_host = [(layer, layer.tensors) for layer in layers[: placement.cpu_layers]]
        on_host += [
            (layers[part.layer], part.tensors)
            for part in moved_by_layer(self._profile, placement)
            if part.device == HOST
        ]
        return sum(
            predictor.sent_s(device_id, weights_of(tensors, used_share(layer)), n_rows)
            for layer, tensors in on_host
        )

    def _with_first(self, device_id: str) -> Machine:
        """The devices in use, with this one first."""
        devices = {device.id: device for device in self._machine.devices}
        ids = dict.fromkeys((device_id, *self._default.placement.device_order))
        return replace(self._machine, devices=tuple(devices[each] for each in ids))

    def _sizes(self) -> list[int | None]:
        """Sizes up to the first that holds the whole prompt; None: as the workload says."""
        workload, context = self._workload, self._default.context
        if workload.n_ubatch is not None or has_draft(workload):  # a draft's context has them too
            return [workload.n_ubatch]
        most = min(workload.n_batch or SIZES[-1], context.n_ctx)
        prompt = Predictor(self._profile, context, self._machine, workload).prompt_tokens
        enough = next((size for size in SIZES if size >= prompt), SIZES[-1])
        return [size for size in SIZES if size <= min(most, enough)]
