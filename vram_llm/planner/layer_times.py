"""Seconds that weights take on one device, by their quantisation types, in decode steps and in prompts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vram_llm.machine.card_figures import PLAIN, Part, figures_of
from vram_llm.machine.types import Device, DeviceKind, Host, Speed
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import Role, Tensor

_SHARING = 0.5  # n tokens choose as many experts as n^0.5 independent ones
_QUANTIZED_SHARE = 0.15  # of a processor's attention over an f16 cache


class Heads(NamedTuple):
    """The heads of a model's attention."""

    size: int  # elements of a head's K, or V if that is smaller
    per_kv: int  # query heads of one head of K and V


_VECTOR_ROWS = 8  # rows of a step that llama.cpp's vector kernels compute (MMVQ_MAX_BATCH_SIZE)


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of one type, all routed experts or none."""

    type: str
    are_experts: bool
    n_bytes: int
    params: int
    used: float  # share of them that one token is multiplied with

    def share_of(self, rows: int) -> float:
        """The share of them that `rows` tokens read, all together."""
        return 1 - (1 - self.used) ** (rows**_SHARING) if self.are_experts else 1.0


def weights_of(tensors: Iterable[Tensor], used_experts: float = 1.0) -> tuple[Weights, ...]:
    """Tensors as weights by type; one token uses `used_experts`, a share, of routed experts."""
    sums: dict[tuple[str, bool], tuple[int, int]] = {}
    for tensor in tensors:
        key = (tensor.type.name, tensor.role is Role.EXPERT)
        n_bytes, params = sums.get(key, (0, 0))
        sums[key] = (n_bytes + tensor.n_bytes, params + math.prod(tensor.shape))
    return tuple(
        Weights(name, are_experts, n_bytes, params, used_experts if are_experts else 1.0)
        for (name, are_experts), (n_bytes, params) in sums.items()
    )


def parts_of(layer: Layer) -> tuple[Part, ...]:
    """The parts of a layer that launch kernels."""
    names = [tensor.name.partition(".")[2].partition(".")[2] for tensor in layer.tensors]
    lines = "".join(f"\n{name}" for name in names)  # one text is searched faster than many

    def has(*starts: str) -> bool:
        return any(f"\n{start}" in lines for start in starts)

    parts = []
    if has("attn_kv_a_mqa"):
        parts.append(Part.LATENT_ATTENTION)
    elif has("ssm_beta", "ssm_alpha", "ssm_ba", "ssm_f_a", "time_mix_"):
        parts.append(Part.DELTA_NET)
    else:
        if has("ssm_", "shortconv."):
            parts.append(Part.STATE_SPACE)
        if has("attn_q", "attn_k", "attn_output"):
            parts.append(Part.ATTENTION)
    if layer.expert_bytes:
        parts.append(Part.EXPERTS)
    elif has("ffn_up", "ffn_down"):
        parts.append(Part.DENSE)
    if has("post_ffw_norm"):
        parts.append(Part.POST_NORMS)
    return tuple(parts)


_Kernels = tuple[list[tuple[Weights, ...]], list[tuple[Part, ...]]]
_KEPT_MODELS = 8
_kernels: dict[int, tuple[Sequence[Layer], _Kernels]] = {}  # by the id of the layers, which are kept with it


def kernels_of(layers: tuple[Layer, ...]) -> _Kernels:
    """The weights and the parts of each layer, made once for a model: each placement asks for them."""
    known = _kernels.get(id(layers))
    if known is None:
        weights = [weights_of(layer.tensors, used_share(layer)) for layer in layers]
        known = layers, (weights, [parts_of(layer) for layer in layers])
        for oldest in list(_kernels)[: 1 - _KEPT_MODELS]:
            _kernels.pop(oldest, None)
        _kernels[id(layers)] = known
    return known[1]


def used_share(layer: Layer) -> float:
    """The share of a layer's routed experts that one token uses."""
    return 1 - (layer.bytes - layer.active_bytes) / layer.expert_bytes if layer.expert_bytes else 0.0


def head_norms(profile: ModelProfile, layer: Layer, min_heads: float) -> int:
    """The layer's norms of single heads, of queries or keys, that have at least `min_heads` heads."""
    heads = {"attn_q_norm.": profile.n_head, "attn_k_norm.": profile.n_head_kv}
    return sum(
        n_heads >= min_heads and name in tensor.name and math.prod(tensor.shape) == profile.head_k
        for tensor in layer.tensors
        for name, n_heads in heads.items()
    )


class PlaceTimes:
    """Times of weights on one device, or on the host. All its speeds are known or assumed."""

    def __init__(self, place: Device | Host) -> None:
        assert place.speed is not None
        assert place.speed.split_s is not None
        self.speed: Speed = place.speed
        self.split_s = place.speed.split_s.value
        self.kind: DeviceKind | None = None if isinstance(place, Host) else place.kind
        self._figures = PLAIN if isinstance(place, Host) else figures_of(place)
        self._types = {each.type: each for each in place.speed.types}
        share = place.speed.expert_read_share
        self._expert_read_share = 1.0 if share is None else share.value

    @property
    def skips_masked(self) -> bool:
        """Whether attention of a prompt skips cells that lie before all windows of some rows."""
        return self._figures.skips_masked

    def overhead_s(self, parts: Sequence[Part]) -> float:
        """Seconds of a layer whatever its bytes: launches on a card, barriers on a processor."""
        n_launches = sum(self._figures.launches[part] for part in parts) if parts else 1.0
        return self.speed.layer_overhead_s.value * n_launches

    def rows_s(self, parts: Sequence[Part], rows: int) -> float:
        """Seconds that a layer takes more for several rows, whatever its bytes."""
        return self._figures.latent_rows_s if rows > 1 and Part.LATENT_ATTENTION in parts else 0.0

    def decode_s(self, weights: Sequence[Weights], rows: int) -> float:
        """Seconds of a decode step of `rows` tokens, one of each sequence.

        Weights never take longer for all rows together than for one row after the other.
        """
        figures = self._figures
        together = alone = 0.0
        vector_rows = min(rows, _VECTOR_ROWS) - 1
        more_rows = (rows - 1 - vector_rows) * figures.row_share / figures.more_rows_share
        for part in weights:
            read_s = part.n_bytes / self._read_bytes_per_s(part)
            slower = figures.expert_rows_share if part.are_experts and rows > 1 else 1.0
            together += part.share_of(rows) * read_s / slower
            together += (vector_rows + more_rows) * 2 * part.used * part.params / self._row_flops_per_s(part)
            alone += part.used * read_s
        if rows > 1 and any(part.are_experts for part in weights):
            together += figures.expert_rows_s
        return min(together, rows * alone)

    def prompt_s(self, weights: Sequence[Weights], rows: int) -> float:
        """Seconds of a micro-batch of a prompt: for each type, reading or arithmetic."""
        return sum(
            max(
                part.share_of(rows) * part.n_bytes / self._read_bytes_per_s(part),
                2 * rows * part.used * part.params / self._prompt_flops_per_s(part, rows),
            )
            for part in weights
        )

    def attention_s(
        self, flops: float, cache_bytes: float, heads: Heads, *, quantized: bool, is_flash: bool
    ) -> float:
        """Seconds of decode rows over their caches: reading, or a processor's arithmetic."""
        read_s = cache_bytes / self.speed.read_bytes_per_s.value
        if self.kind is None:
            return max(read_s, self._attention_s(flops, quantized))
        if is_flash:
            return read_s / self._figures.cache_share
        n_reads = heads.per_kv if self._figures.plain_rereads else 1
        return n_reads * read_s / self._figures.plain_cache_share

    def least_attention_s(self, tokens: int, *, is_flash: bool) -> float:
        """Least seconds of a layer's attention in a decode step, over `tokens` of each stream."""
        return tokens * (self._figures.cache_token_s if is_flash else self._figures.plain_token_s)

    def scores_s(self, n_bytes: float) -> float:
        """Seconds of a micro-batch for scores that are stored: on a card, its passes over them."""
        return n_bytes * self._figures.score_passes / self.speed.read_bytes_per_s.value

    def state_s(self, n_bytes: float) -> float:
        """Seconds to read and to write recurrent states."""
        return 2 * n_bytes / self.speed.read_bytes_per_s.value

    def prompt_state_s(self, n_bytes: float, rows: int) -> float:
        """Seconds of a micro-batch for recurrent states, which each token reads and writes."""
        return rows * self.state_s(n_bytes) / self._figures.state_reuse

    def prompt_attention_s(self, flops: float, heads: Heads, *, quantized: bool) -> float:
        """Seconds of a micro-batch's attention."""
        seconds = self._attention_s(flops, quantized)
        return seconds if self.kind is None else seconds / self._figures.attention_rate(*heads)

    def _attention_s(self, flops: float, quantized: bool) -> float:
        rate = self.speed.attention_flops_per_s
        if rate is not None:
            return flops / (rate.value * (_QUANTIZED_SHARE if quantized else 1.0))
        assert self.speed.prompt_flops_per_s is not None
        return flops / self.speed.prompt_flops_per_s.value

    def _read_bytes_per_s(self, part: Weights) -> float:
        of_type = self._types.get(part.type)
        rate = self.speed.read_bytes_per_s if of_type is None else of_type.read_bytes_per_s
        share = self._figures.read_types.get(part.type, 1.0)
        return rate.value * share * (self._expert_read_share if part.are_experts else 1.0)

    def _row_flops_per_s(self, part: Weights) -> float:
        of_type = self._types.get(part.type)
        rate = self.speed.row_flops_per_s if of_type is None else of_type.row_flops_per_s
        assert rate is not None
        return rate.value

    def _prompt_flops_per_s(self, part: Weights, rows: int) -> float:
        of_type = self._types.get(part.type)
        rate = self.speed.prompt_flops_per_s if of_type is None else of_type.prompt_flops_per_s
        assert rate is not None
        figures = self._figures
        share = figures.prompt_types.get(part.type, 1.0)
        if part.are_experts:
            expert_rows = rows * part.used
            share *= figures.expert_prompt_share * expert_rows / (expert_rows + figures.expert_half_rows)
        else:
            share *= rows / (rows + figures.half_rows)
        return rate.value * share
