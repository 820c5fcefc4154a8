"""Weights on the host that its memory does not hold stay in the model's file, and each token reads them.

A token is multiplied with all dense weights and with some of the experts, in the same order every time. A
page cache that is smaller than the weights drops each page shortly before it is needed again, and so keeps
none of them (it thrashes): all are read for every token. So as many weights as there is room for stay in
memory, locked where the system allows it. Only the others are read, and dropped after use:

    read      dense weights that are not resident + experts that are not resident * used / all

Dense weights stay before experts: a byte of them saves a byte for each token, a byte of experts only a part.
The same share of each layer stays, from its first tensor in the file on, so that the disk reads while weights
in memory are computed with. A token reads one row of the embedding, which does not stay. Memory for two
layers is left for weights that are read ahead.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vram_llm.machine.assumed_speed import disk_speed
from vram_llm.machine.types import Machine
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import Role, Tensor
from vram_llm.planner.disk_reads import DiskReads
from vram_llm.planner.layer_times import used_share, weights_of
from vram_llm.planner.overrides import overriding_device
from vram_llm.planner.types import HOST, Context, Placement
from vram_llm.units import MIB

_LEAST_WINDOW_BYTES = 64 * MIB
_WINDOW_LAYERS = 2


@dataclass(frozen=True, slots=True)
class HostWeights:
    """Weights on the host that one layer reads, in the file's order; the output follows the last layer."""

    layer: int
    dense: tuple[Tensor, ...]
    experts: tuple[Tensor, ...]
    used: float  # share of the experts that one token uses

    @property
    def dense_bytes(self) -> int:
        """Bytes that every token reads."""
        return sum(tensor.n_bytes for tensor in self.dense)

    @property
    def expert_bytes(self) -> int:
        """Bytes of all experts."""
        return sum(tensor.n_bytes for tensor in self.experts)

    def used_bytes(self, rows: int) -> float:
        """Bytes of the experts that `rows` tokens use."""
        return sum(part.share_of(rows) * part.n_bytes for part in weights_of(self.experts, self.used))


@dataclass(frozen=True, slots=True)
class ResidentShares:
    """The shares of each layer's weights that stay in memory."""

    dense: float
    experts: float

    def of(self, weights: HostWeights) -> Iterator[tuple[Tensor, int]]:
        """Each tensor of a layer, and how many of its first bytes stay."""
        for tensors, share in ((weights.dense, self.dense), (weights.experts, self.experts)):
            left = round(share * sum(tensor.n_bytes for tensor in tensors))
            for tensor in tensors:
                stays = min(tensor.n_bytes, left)
                left -= stays
                yield tensor, stays


@dataclass(frozen=True, slots=True)
class StepReads:
    """Bytes that a step reads from the file."""

    dense_bytes: float  # known beforehand, so read ahead
    expert_bytes: float  # expected


def weights_on_host(profile: ModelProfile, placement: Placement) -> tuple[HostWeights, ...]:
    """The weights that steps read on the host, in the order of computation."""
    return tuple(_weights_on_host(profile, placement))


def resident_shares(weights: Sequence[HostWeights], resident_bytes: int) -> ResidentShares:
    """The shares of `weights` that stay in `resident_bytes` of memory."""
    dense = sum(each.dense_bytes for each in weights)
    experts = sum(each.expert_bytes for each in weights)
    for_experts = max(resident_bytes - dense, 0)
    return ResidentShares(
        min(resident_bytes / dense, 1.0) if dense else 1.0,
        min(for_experts / experts, 1.0) if experts else 1.0,
    )


def step_reads(weights: Sequence[HostWeights], resident: ResidentShares, rows: int) -> StepReads:
    """Bytes that a step of `rows` tokens reads from the file."""
    dense = sum(each.dense_bytes for each in weights)
    used = sum(each.used_bytes(rows) for each in weights)
    return StepReads((1 - resident.dense) * dense, (1 - resident.experts) * used)


def window_bytes(weights: Sequence[HostWeights]) -> int:
    """Bytes of memory for weights that are read: those of two layers."""
    largest = max((each.dense_bytes + each.used_bytes(1) for each in weights), default=0.0)
    return max(math.ceil(_WINDOW_LAYERS * largest), _LEAST_WINDOW_BYTES)


def disk_reads(
    profile: ModelProfile, placement: Placement, context: Context, machine: Machine
) -> DiskReads | None:
    """The reads from the file for a token; None if the memory holds all weights."""
    if context.resident_bytes is None:
        return None
    weights = weights_on_host(profile, placement)
    reads = step_reads(weights, resident_shares(weights, context.resident_bytes), 1)
    all_weights = sum(each.dense_bytes + each.expert_bytes for each in weights)
    return DiskReads(
        dense_bytes=round(reads.dense_bytes),
        expert_bytes=round(reads.expert_bytes),
        cyclic_bytes=round(sum(each.dense_bytes + each.used_bytes(1) for each in weights)),
        resident_bytes=min(context.resident_bytes, all_weights),
        window_bytes=window_bytes(weights),
        bytes_per_s=disk_speed(machine.host),
    )


def _weights_on_host(profile: ModelProfile, placement: Placement) -> Iterator[HostWeights]:
    def here(home: str, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        placed = ((overriding_device(placement.overrides, each.name) or home, each) for each in tensors)
        return tuple(tensor for device, tensor in placed if device == HOST)

    for layer, home in zip(profile.layers, placement.layer_devices(), strict=True):
        first = profile.first_layer_tensors if layer.index == 0 else ()
        if not layer.is_draft and (held := here(home, (*first, *layer.tensors))):
            experts = tuple(tensor for tensor in held if tensor.role is Role.EXPERT)
            dense = tuple(tensor for tensor in held if tensor.role is not Role.EXPERT)
            yield HostWeights(layer.index, dense, experts, used_share(layer))
    output = here(placement.output_device, profile.output_tensors)
    if placement.output_device == HOST and profile.tied_output:
        output += tuple(tensor for tensor in profile.input_tensors if tensor.role is Role.TOKEN_EMBD)
    if output:
        yield HostWeights(profile.n_layers, output, (), 0.0)
