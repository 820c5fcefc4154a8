"""Sizes of KV cache cells, of their copies and of their rotations."""

from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES, row_bytes
from vram_llm.planner.memory.layer_shapes import F16_BYTES, F32_BYTES
from vram_llm.planner.types import Context

_MIN_ROTATION = 64  # columns


def stored_bytes(layer: Layer, context: Context, n_cells: int) -> tuple[int, int]:
    """Bytes of a layer's keys and of its values in `n_cells` cells."""
    key = row_bytes(KV_TYPES[context.kv_type_k], layer.n_embd_k_gqa)
    return key * n_cells, row_bytes(KV_TYPES[context.kv_type_v], layer.n_embd_v_gqa) * n_cells


def copy_bytes(layer: Layer, context: Context, n_cells: int) -> int:
    """Bytes of the f16 copy of a layer's keys and values; 0 if the cache is f16."""
    widths = ((context.kv_type_k, layer.n_embd_k_gqa), (context.kv_type_v, layer.n_embd_v_gqa))
    return sum(F16_BYTES * width * n_cells for kv_type, width in widths if kv_type != "f16")


def rotations(profile: ModelProfile, context: Context) -> tuple[tuple[bool, bool], int]:
    """Whether K and V are rotated before they are quantised, and the bytes of the rotation matrices."""
    head_k, head_v = profile.head_k, profile.head_v
    rotates = (
        KV_TYPES[context.kv_type_k].is_quantized and head_k % _MIN_ROTATION == 0,
        KV_TYPES[context.kv_type_v].is_quantized and head_v % _MIN_ROTATION == 0,
    )
    rotation = _MIN_ROTATION
    while head_k and head_k % (2 * rotation) == 0:
        rotation *= 2
    return rotates, F32_BYTES * (rotates[0] * rotation**2 + rotates[1] * _MIN_ROTATION**2)


def last_stored(profile: ModelProfile) -> tuple[int, int]:
    """The index of the last layer that stores keys and values, without a window and with one; -1: none.

    Layers without keys and values of their own use those of one of these two layers.
    """
    stored = {False: -1, True: -1}
    for layer in profile.layers:
        if layer.n_embd_k_gqa:
            stored[bool(layer.sliding_window)] = layer.index
    return stored[False], stored[True]
