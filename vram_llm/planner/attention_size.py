"""Bytes and operations of a layer's attention at some depth of the context."""

from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES, row_bytes
from vram_llm.planner.types import Context

_F32 = 4


def cache_bytes(profile: ModelProfile, context: Context, layer: Layer, depth: int) -> int:
    """Bytes of a layer's K and V of `depth` tokens, at most those of its window."""
    key = row_bytes(KV_TYPES[context.kv_type_k], layer.n_embd_k_gqa)
    value = row_bytes(KV_TYPES[context.kv_type_v], layer.n_embd_v_gqa)
    return (key + value) * _seen(profile, layer, depth)


def attention_flops(profile: ModelProfile, layer: Layer, depth: int) -> int:
    """Operations of one row's attention over `depth` tokens: scores and weighted values."""
    if not layer.n_embd_k_gqa:
        return 0
    return 2 * profile.n_head * (profile.head_k + profile.head_v) * _seen(profile, layer, depth)


def score_bytes(profile: ModelProfile, layer: Layer, depth: int) -> int:
    """Bytes of one row's scores over `depth` tokens, which are stored without flash attention."""
    return _F32 * profile.n_head * _seen(profile, layer, depth) if layer.n_embd_k_gqa else 0


def _seen(profile: ModelProfile, layer: Layer, depth: int) -> int:
    """The tokens that a row attends to."""
    return min(depth, profile.sliding_window) if layer.sliding_window and profile.sliding_window else depth
