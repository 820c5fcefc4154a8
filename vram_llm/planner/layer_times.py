"""Seconds that weights take on one device, by their quantisation types, in decode steps and in prompts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vram_llm.machine.datasheet_speed import expert_share
from vram_llm.machine.types import Device, DeviceKind, Host, Speed
from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.tensors import Role, Tensor

_SHARING = 0.5  # n tokens choose as many experts as n^0.5 independent ones
_QUANTIZED_SHARE = 0.15  # of a processor's attention over an f16 cache

# On NVIDIA cards; on others they do not hold.
_CACHE_SHARE = 0.8  # of the read rate of weights, for K and V
_EXPERT_ROWS_SHARE = 0.6  # of that rate, for experts of several rows: another kernel
_EXPERT_ROWS_S = 80e-6  # a layer more, for the same kernel

# Kernels of a layer, relative to those of a dense layer with attention.
_ATTENTION, _LATENT_ATTENTION, _DELTA_NET, _STATE_SPACE = 0.6, 1.5, 0.9, 0.6
_DENSE, _EXPERTS, _POST_NORMS = 0.4, 0.9, 0.8


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


def launches(layer: Layer) -> float:
    """Kernels that a layer launches, relative to those of a dense layer with attention."""
    names = [tensor.name.partition(".")[2].partition(".")[2] for tensor in layer.tensors]
    lines = "".join(f"\n{name}" for name in names)  # one text is searched faster than many

    def has(*starts: str) -> bool:
        return any(f"\n{start}" in lines for start in starts)

    if has("attn_kv_a_mqa"):
        mixer = _LATENT_ATTENTION
    elif has("ssm_beta", "ssm_alpha", "ssm_ba", "ssm_f_a", "time_mix_"):
        mixer = _DELTA_NET
    else:
        mixer = _STATE_SPACE * has("ssm_", "shortconv.") + _ATTENTION * has("attn_q", "attn_k", "attn_output")
    network = _EXPERTS if layer.expert_bytes else _DENSE * has("ffn_up", "ffn_down")
    return mixer + network + _POST_NORMS * has("post_ffw_norm") or 1.0


_Kernels = tuple[list[tuple[Weights, ...]], list[float]]
_KEPT_MODELS = 8
_kernels: dict[int, tuple[Sequence[Layer], _Kernels]] = {}  # by the id of the layers, which are kept with it


def kernels_of(layers: tuple[Layer, ...]) -> _Kernels:
    """The weights and the launches of each layer, made once for a model: each placement asks for them."""
    known = _kernels.get(id(layers))
    if known is None:
        weights = [weights_of(layer.tensors, used_share(layer)) for layer in layers]
        known = layers, (weights, [launches(layer) for layer in layers])
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
        self._is_nvidia = self.kind is DeviceKind.CUDA
        self._counts_launches = self.kind in (None, DeviceKind.RPC, DeviceKind.CUDA)
        self._types = {each.type: each for each in place.speed.types}
        share = place.speed.expert_read_share
        self._expert_read_share = 1.0 if share is None else share.value

    def overhead_s(self, n_launches: float) -> float:
        """Seconds of a layer whatever its bytes: launches on a card, barriers on a processor."""
        return self.speed.layer_overhead_s.value * (n_launches if self._counts_launches else 1.0)

    def decode_s(self, weights: Sequence[Weights], rows: int) -> float:
        """Seconds of a decode step of `rows` tokens, one of each sequence.

        Weights never take longer for all rows together than for one row after the other.
        """
        together = alone = 0.0
        for part in weights:
            read_s = part.n_bytes / self._read_bytes_per_s(part)
            slower = _EXPERT_ROWS_SHARE if part.are_experts and self._is_nvidia and rows > 1 else 1.0
            together += part.share_of(rows) * read_s / slower
            together += (rows - 1) * 2 * part.used * part.params / self._row_flops_per_s(part)
            alone += part.used * read_s
        if rows > 1 and self._is_nvidia and any(part.are_experts for part in weights):
            together += _EXPERT_ROWS_S
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

    def attention_s(self, flops: float, cache_bytes: float, *, quantized: bool) -> float:
        """Seconds of decode rows over their caches: reading, or a processor's arithmetic."""
        read_s = cache_bytes / self.speed.read_bytes_per_s.value
        if self.kind is None:
            return max(read_s, self._attention_s(flops, quantized))
        return read_s / _CACHE_SHARE if self._is_nvidia else read_s

    def state_s(self, n_bytes: float) -> float:
        """Seconds to read and to write recurrent states."""
        return 2 * n_bytes / self.speed.read_bytes_per_s.value

    def prompt_attention_s(self, flops: float, *, quantized: bool) -> float:
        """Seconds of a micro-batch's attention."""
        return self._attention_s(flops, quantized)

    def _attention_s(self, flops: float, quantized: bool) -> float:
        rate = self.speed.attention_flops_per_s
        if rate is not None:
            return flops / (rate.value * (_QUANTIZED_SHARE if quantized else 1.0))
        assert self.speed.prompt_flops_per_s is not None
        return flops / self.speed.prompt_flops_per_s.value

    def _read_bytes_per_s(self, part: Weights) -> float:
        of_type = self._types.get(part.type)
        rate = self.speed.read_bytes_per_s if of_type is None else of_type.read_bytes_per_s
        return rate.value * (self._expert_read_share if part.are_experts else 1.0)

    def _row_flops_per_s(self, part: Weights) -> float:
        of_type = self._types.get(part.type)
        rate = self.speed.row_flops_per_s if of_type is None else of_type.row_flops_per_s
        assert rate is not None
        return rate.value

    def _prompt_flops_per_s(self, part: Weights, rows: int) -> float:
        of_type = self._types.get(part.type)
        rate = self.speed.prompt_flops_per_s if of_type is None else of_type.prompt_flops_per_s
        assert rate is not None
        if part.are_experts and self.kind not in (None, DeviceKind.RPC):
            assert self.kind is not None
            return rate.value * expert_share(self.kind, rows * part.used)
        return rate.value
