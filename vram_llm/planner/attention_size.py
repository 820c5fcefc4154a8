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
    return (key + value) * seen_tokens(profile, layer, depth)


def attention_flops(profile: ModelProfile, layer: Layer, tokens: int) -> int:
    """Operations of one row's attention over `tokens`: scores and weighted values."""
    return 2 * profile.n_head * (profile.head_k + profile.head_v) * tokens if layer.n_embd_k_gqa else 0


def score_bytes(profile: ModelProfile, layer: Layer, tokens: int) -> int:
    """Bytes of one row's scores over `tokens`, which are stored without flash attention."""
    return _F32 * profile.n_head * tokens if layer.n_embd_k_gqa else 0


def seen_tokens(profile: ModelProfile, layer: Layer, depth: int, masked: int = 0) -> int:
    """The tokens of a context of `depth` that a row computes with; of a window, with `masked` more."""
    if layer.sliding_window and profile.sliding_window:
        return min(depth, profile.sliding_window + masked)
    return depth
