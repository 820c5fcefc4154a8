"""llama.cpp's parameters for a placement and a context, for the real load and the dry run."""

import ctypes
from collections.abc import Sequence
from typing import Any

from vram_llm.llama import bindings as b
from vram_llm.llama.bindings import C
from vram_llm.model.metadata_override import MetadataOverride
from vram_llm.model.pooling import NUMBERS, Pooling
from vram_llm.model.quants import KV_TYPES
from vram_llm.planner.context import NO_TENSOR
from vram_llm.planner.rope import Rope, RopeScaling
from vram_llm.planner.tensor_split import SplitMode
from vram_llm.planner.types import HOST, Context, FlashAttention, Placement

FLASH_ATTENTION = {
    FlashAttention.AUTO: C.LLAMA_FLASH_ATTN_TYPE_AUTO,
    FlashAttention.ON: C.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    FlashAttention.OFF: C.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
ROPE_SCALING = {
    RopeScaling.NONE: C.LLAMA_ROPE_SCALING_TYPE_NONE,
    RopeScaling.LINEAR: C.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    RopeScaling.YARN: C.LLAMA_ROPE_SCALING_TYPE_YARN,
}
# llama_load_mode of llama.h
LOAD_AUTO, LOAD_WITHOUT_MMAP, LOAD_LOCKED, LOAD_MAPPED_AND_LOCKED = -1, 0, 2, 3


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override; the last of an array has no pattern."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", b.Pointer)]


class ModelParams:
    """A llama_model_params and the memory it points at: keep it until the model is loaded."""

    def __init__(
        self,
        placement: Placement,
        context: Context,
        devices: Sequence[int],
        *,
        extra_buffers: bool = True,
        kv_overrides: Sequence[MetadataOverride] = (),
    ) -> None:
        """`devices` are ggml's handles, in the placement's order.

        `extra_buffers`: the processor's weights may be repacked for quicker kernels.
        """
        self._devices = (b.Pointer * (len(devices) + 1))(*devices, None)
        self._split = (ctypes.c_float * C.llama_max_devices())(*placement.tensor_split)
        self._kept: list[object] = []
        self.struct: Any = C.llama_model_default_params()
        self.struct.devices = ctypes.cast(self._devices, b.Pointer)
        self.struct.tensor_split = self._split
        self.struct.n_gpu_layers = placement.n_gpu_layers
        if placement.split_mode is SplitMode.TENSOR:
            self.struct.split_mode = C.LLAMA_SPLIT_MODE_TENSOR
        self.struct.load_mtp = context.n_mtp > 0
        # weights of a mapped file would be repacked into memory all the same
        may_repack = extra_buffers and context.repack and context.resident_bytes is None
        self.struct.use_extra_bufts = may_repack and not b.has_amx_kernels()
        self.struct.no_host = context.no_host
        if kv_overrides:
            self.struct.kv_overrides = _kv_overrides(kv_overrides)
        if moved := self._overrides(placement, context, devices):
            overrides = (_Override * (len(moved) + 1))(*moved)
            self.keep(overrides)
            self.struct.tensor_buft_overrides = ctypes.cast(overrides, b.Pointer)

    def _overrides(self, placement: Placement, context: Context, devices: Sequence[int]) -> list[_Override]:
        """The placement's overrides; without any, one that only keeps llama.cpp from pipeline copies."""
        cpu = b.dev_buffer_type(b.dev_by_type(b.CPU_DEVICE_TYPE))
        if placement.split_mode is SplitMode.TENSOR:  # it has one device for llama.cpp, so no copies
            return []
        if not placement.overrides:
            no_copies = not context.pipeline_copies and len(devices) > 1
            return [_Override(NO_TENSOR.encode(), cpu)] if no_copies else []
        types = dict(zip(placement.device_order, map(b.dev_buffer_type, devices), strict=True)) | {HOST: cpu}
        return [_Override(each.pattern.encode(), types[each.device]) for each in placement.overrides]

    def keep(self, what: object) -> None:
        """Keep one more object alive that the struct points at."""
        self._kept.append(what)


def load_mode(context: Context) -> int:
    """The llama_load_mode of a real load."""
    if context.mlock:
        return LOAD_MAPPED_AND_LOCKED if context.use_mmap else LOAD_LOCKED
    return LOAD_AUTO if context.use_mmap else LOAD_WITHOUT_MMAP


def _kv_overrides(overrides: Sequence[MetadataOverride]) -> Any:
    """An array of llama_model_kv_override, whose last one has no key."""
    array = (C.llama_model_kv_override * (len(overrides) + 1))()
    for entry, override in zip(array, overrides, strict=False):
        entry.key = override.key.encode()
        match override.value:
            case bool():
                entry.tag, entry.value.val_bool = C.LLAMA_KV_OVERRIDE_TYPE_BOOL, override.value
            case int():
                entry.tag, entry.value.val_i64 = C.LLAMA_KV_OVERRIDE_TYPE_INT, override.value
            case float():
                entry.tag, entry.value.val_f64 = C.LLAMA_KV_OVERRIDE_TYPE_FLOAT, override.value
            case str():
                entry.tag, entry.value.val_str = C.LLAMA_KV_OVERRIDE_TYPE_STR, override.value.encode()
    return array


def context_params(context: Context) -> Any:
    """The llama_context_params for `context`."""
    params = C.llama_context_default_params()
    params.n_ctx = context.n_ctx
    params.n_batch = context.n_batch
    params.n_ubatch = context.n_ubatch
    params.n_seq_max = context.parallel
    params.n_outputs_max = context.n_outputs
    params.n_threads = context.n_threads
    params.n_threads_batch = context.n_threads_batch or context.n_threads
    params.type_k, params.type_v = KV_TYPES[context.kv_type_k].id, KV_TYPES[context.kv_type_v].id
    params.flash_attn_type = FLASH_ATTENTION[context.flash_attn]
    params.kv_unified = context.kv_unified
    params.swa_full = context.swa_full
    params.op_offload, params.offload_kqv = context.op_offload, context.kv_offload
    _put_rope(params, context.rope)
    params.n_rs_seq = context.n_mtp  # states to go back to; llama.cpp keeps none of plain attention
    params.no_perf = True
    if context.pooling is not None:
        pooling = Pooling.NONE if context.pools_in_engine else context.pooling
        params.embeddings, params.pooling_type = True, NUMBERS[pooling]
    return params


def _put_rope(params: Any, rope: Rope) -> None:
    """Set the fields of `rope` that are given; the others are the model file's."""
    if rope.scaling is not None:
        params.rope_scaling_type = ROPE_SCALING[rope.scaling]
    for name, value in rope.numbers.items():
        setattr(params, name, value)
