"""Plans a tensor split: shares for each device by speed and memory, or the reason why there is none.

Only the exact meter counts the bytes: llama.cpp rounds each tensor's share. The search begins with the shares
with which all devices take the same time, moves parts from devices that are over their budgets to others, and
then tries neighbours. Devices are left out, the slowest first, where that is faster.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vram_llm.errors import BadPlan, EngineDied, ModelRefused
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.context import wants_auto_context
from vram_llm.planner.llama_split import tensor_placement
from vram_llm.planner.search.candidate import Candidate, expected_speed, uses_host
from vram_llm.planner.speed import output_tensors
from vram_llm.planner.speed_error import is_certain
from vram_llm.planner.tensor_speed import TensorPredictor
from vram_llm.planner.tensor_split import SplitChoice, SplitMode
from vram_llm.planner.types import Context, FlashAttention, MeterFor, Objective, Workload
from vram_llm.units import format_bytes, format_count

_NOTES = (
    "tensor split is experimental in llama.cpp; `vram-llm verify` checks bytes and logits",
    "with a tensor split the host samples, and copies no idle conversation to itself",
)
_PARTS = 64  # a share is a multiple of 1/64
_ROUNDS = 4
_CELLS = 256  # llama.cpp pads contexts to a multiple
_LEAST_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class TensorChoice:
    """The chosen candidate, the other split mode's, and sentences on the choice."""

    chosen: Candidate
    other: Candidate | None = None
    notes: tuple[str, ...] = ()

    @property
    def shares_tensors(self) -> bool:
        """Whether the chosen candidate is a tensor split."""
        return self.chosen.placement.split_mode is SplitMode.TENSOR


def choose_split_mode(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    by_layers: Candidate,
    exact: MeterFor | None,
) -> TensorChoice:
    """`by_layers`, or a tensor split in its context if the workload's split mode asks for it.

    Raises BadPlan with the reason if the workload asks for a tensor split and there is none.
    """
    if workload.split_mode in (None, SplitChoice.LAYER):
        return TensorChoice(by_layers)
    is_told = workload.split_mode is SplitChoice.TENSOR
    found = None
    if (reason := refusal(profile, machine, workload, by_layers, exact)) is None:
        assert exact is not None
        for context in (by_layers.context, *_shorter(profile, workload, by_layers.context)):
            found, reason = _TensorSearch(profile, machine, workload, context, exact).best()
            if found is not None:
                break
    if found is None:
        if is_told:
            raise BadPlan(f"no tensor split: {reason}; --split-mode layer plans whole layers")
        return TensorChoice(by_layers, None, (f"split by layers: no tensor split, {reason}",))
    by_tensors, whole_layers = (expected_speed(profile, machine, workload, c) for c in (found, by_layers))
    gain = whole_layers.step_s / by_tensors.step_s - 1
    is_faster = gain > 0 and is_certain(whole_layers, by_tensors)
    if is_told or is_faster or not by_layers.estimate.fits:
        return TensorChoice(found, by_layers if by_layers.estimate.fits else None, _NOTES)
    assert by_tensors.sums is not None
    return TensorChoice(by_layers, found, (_why_layers(gain, by_tensors.sums.error),))


def _shorter(profile: ModelProfile, workload: Workload, context: Context) -> Iterator[Context]:
    """Contexts for a tensor split that the user asks for, where the planner chooses the length."""
    if workload.split_mode is not SplitChoice.TENSOR or not wants_auto_context(profile, workload):
        return
    step = _CELLS * context.n_caches
    while (n_ctx := context.n_ctx // 2 // step * step) >= _LEAST_CONTEXT * context.n_caches:
        context = replace(context, n_ctx=n_ctx)
        yield context


def _why_layers(gain: float, error: float) -> str:
    """Why a tensor split that fits is not taken; `gain` is that of tokens per second, `error` of its ln."""
    if gain < 0.005:
        slower = f"{-gain:.0%} slower" if gain <= -0.005 else "not faster"
        return f"split by layers: a tensor split is predicted {slower}"
    return (
        f"split by layers: a tensor split is predicted {gain:.0%} faster, within the error of such a "
        f"prediction ({math.exp(error) - 1:.0%}); --split-mode tensor takes it"
    )


def refusal(
    profile: ModelProfile,
    machine: Machine,
    workload: Workload,
    by_layers: Candidate,
    exact: MeterFor | None,
) -> str | None:
    """Why no tensor split is planned, whatever the shares; None if there is no such reason."""
    context = by_layers.context
    if len(machine.devices) < 2:
        return "it needs two devices"
    if exact is None:
        return "only llama.cpp's dry run counts its bytes, and there is none here"
    if context.flash_attn is FlashAttention.OFF:
        return "it needs flash attention, which --flash-attn off switches off"
    if context.pooling is not None:
        return "it is not planned for embeddings"
    if workload.loras or workload.control_vectors:
        return "it is not planned with LoRA adapters or control vectors"
    if context.n_mtp:
        return "it is not planned with an MTP head"
    if workload.from_disk or workload.kv_offload is False:
        return "it is not planned with weights or caches on the host"
    if workload.overrides:
        return (
            "its devices share every tensor, and --override-tensor, --cpu-moe and the like put some elsewhere"
        )
    if workload.n_gpu_layers is not None and 0 <= workload.n_gpu_layers <= profile.n_layers:
        return (
            f"its devices share all layers, and --n-gpu-layers {workload.n_gpu_layers} keeps some on the host"
        )
    if uses_host(profile, by_layers.placement) and workload.split_mode is SplitChoice.AUTO:
        room = sum(device.budget_bytes(workload.reserve_bytes) for device in machine.devices)
        n_bytes = sum(layer.bytes for layer in profile.layers)
        n_bytes += sum(tensor.n_bytes for tensor in output_tensors(profile))
        if room < n_bytes:
            return f"the devices have room for {format_bytes(room)} of {format_bytes(n_bytes)} of weights"
    return None


def tensor_context(context: Context) -> Context:
    """The context of a tensor split of a model that would have `context` split by layers."""
    return replace(context, pipeline_copies=False, backend_sampling=False, op_offload=False)


class _TensorSearch:
    """Finds the fastest tensor split in one context."""

    def __init__(
        self, profile: ModelProfile, machine: Machine, workload: Workload, context: Context, exact: MeterFor
    ) -> None:
        self._profile, self._machine, self._workload = profile, machine, workload
        self._context = tensor_context(context)
        self._measure = exact(self._context)
        self._predictor = TensorPredictor(profile, self._context, machine, workload)
        self._reason = f"no shares fit the devices with a context of {format_count(context.n_ctx)}"
        self._seen: dict[tuple[tuple[str, ...], tuple[int, ...]], Candidate | None] = {}

    def best(self) -> tuple[Candidate | None, str]:
        """The fastest that fits; None and the reason if there is none."""
        if self._workload.tensor_split is not None:
            ids, shares = self._workload.tensor_split.over([device.id for device in self._machine.devices])
            used = [(id, share) for id, share in zip(ids, shares, strict=True) if share]
            if len(used) < 2:
                return None, "it needs two devices"
            scale = _PARTS / sum(share for _, share in used)
            whole = all(share == int(share) for _, share in used)
            parts = tuple(int(share) if whole else max(round(share * scale), 1) for _, share in used)
            found = self._candidate(tuple(id for id, _ in used), parts)
            return (found if found is not None and found.estimate.fits else None), self._reason
        candidates = [found for ids in self._subsets() if (found := self._best_of(ids)) is not None]
        return min(candidates, key=self._seconds, default=None), self._reason

    def _subsets(self) -> Iterator[tuple[str, ...]]:
        """All devices, then without the slowest, and so on; the fastest comes first."""
        ids = tuple(device.id for device in self._machine.devices)
        shares = dict(zip(ids, self._predictor.ideal_shares(ids), strict=True))
        order = tuple(sorted(ids, key=lambda device_id: -shares[device_id]))
        for n in range(len(order), 1, -1):
            yield order[:n]

    def _best_of(self, ids: tuple[str, ...]) -> Candidate | None:
        """The fastest split over these devices that fits; None if there is none."""
        parts = _rounded(self._predictor.ideal_shares(ids))
        found = self._candidate(ids, parts)
        for _ in range(_ROUNDS):
            if found is None or found.estimate.fits:
                break
            parts = _within_budgets(found, parts)
            found = self._candidate(ids, parts)
        best = found if found is not None and found.estimate.fits else None
        for other in [self._candidate(ids, each) for each in _neighbours(parts)]:
            if other is None or not other.estimate.fits:
                continue
            if best is None or self._seconds(other) < self._seconds(best):
                best = other
        return best

    def _candidate(self, ids: tuple[str, ...], parts: tuple[int, ...]) -> Candidate | None:
        """The measured split; None if llama.cpp refuses it."""
        if (ids, parts) not in self._seen:
            placement, found = tensor_placement(ids, parts, self._profile.n_layers), None
            try:
                found = Candidate(self._context, placement, self._measure(placement))
            except (ModelRefused, EngineDied) as error:
                self._reason = str(error)
            self._seen[ids, parts] = found
        return self._seen[ids, parts]

    def _seconds(self, found: Candidate) -> float:
        """The time that the objective minimises."""
        speed = self._predictor(found.placement, found.estimate)
        if self._workload.objective is Objective.THROUGHPUT:
            assert speed.prompt_s is not None
            return speed.prompt_s
        if self._workload.expect_streams > 1:
            assert speed.streams_step_s is not None
            return speed.streams_step_s
        return speed.step_s


def _rounded(shares: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(round(share * _PARTS), 1) for share in shares)


def _neighbours(parts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """A sixteenth of everything, then a thirty-second, moved from one device to another; and equal shares."""
    yield (1,) * len(parts)
    for step in (_PARTS // 16, _PARTS // 32):
        for i, j in ((i, j) for i in range(len(parts)) for j in range(len(parts)) if i != j):
            if parts[i] > step:
                moved = list(parts)
                moved[i], moved[j] = moved[i] - step, moved[j] + step
                yield tuple(moved)


def _within_budgets(found: Candidate, parts: tuple[int, ...]) -> tuple[int, ...]:
    """Fewer parts on devices over their budgets, more on the one with the most room."""
    uses, moved, freed = found.estimate.devices, list(parts), 0
    for i, use in enumerate(uses):
        if use.over_bytes > 0:
            of_part = (use.weights_bytes + use.context_bytes) / max(parts[i], 1)
            n = min(int(use.over_bytes / max(of_part, 1)) + 1, moved[i] - 1)
            moved[i], freed = moved[i] - n, freed + n
    roomiest = min(range(len(uses)), key=lambda i: uses[i].over_bytes)
    moved[roomiest] += freed
    return tuple(moved)
