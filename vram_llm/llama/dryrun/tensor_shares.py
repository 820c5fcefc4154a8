"""Bytes of a tensor split on each device, by llama.cpp's own rule for every tensor.

With LLAMA_SPLIT_MODE_TENSOR llama.cpp sees one device, ggml's meta device, and reports one sum for all
(`ggml_backend_meta_buffer_type_get_alloc_size`). Its report asks for the size of every weight and every cache
tensor; here each is divided by `llama_meta_device_get_split_state` (src/llama-model.cpp) as in a real load.

Every device's compute buffer has the full size of the graph (`ggml_backend_meta_buffer_type_alloc_buffer`).
At the first step it gets, for each step of the reduction, a buffer for the largest partial sum
(`ggml_backend_meta_graph_compute`).
"""

import ctypes
import math
from collections.abc import Sequence

from vram_llm.errors import ModelRefused, NotBuilt
from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun.ggml_structs import MAX_DIMS, GgmlTensor
from vram_llm.llama.dryrun.virtual_device import VirtualDevice
from vram_llm.model.quants import TYPES
from vram_llm.planner.estimates import MemoryUse

MAX_DEVICES = 16  # GGML_BACKEND_META_MAX_DEVICES
_WEIGHTS_USAGE = 1  # GGML_BACKEND_BUFFER_USAGE_WEIGHTS
_F32_BYTES = 4


class _SplitState(ctypes.Structure):
    """ggml_backend_meta_split_state."""

    _fields_ = [
        ("axis", ctypes.c_int),
        ("ne", ctypes.c_int64 * (16 * MAX_DEVICES)),
        ("nr", ctypes.c_uint32 * 16),
        ("n_segments", ctypes.c_uint32),
    ]


class _UserData(ctypes.Structure):
    """llama_meta_device_get_split_state_userdata."""

    _fields_ = [("n_devices", ctypes.c_size_t), ("model", b.Pointer)]


_split_state = b.declare(
    "_Z33llama_meta_device_get_split_statePK11ggml_tensorPv", _SplitState, b.Pointer, b.Pointer
)
_usage = b.declare("ggml_backend_buffer_get_usage", ctypes.c_int, b.Pointer)
_n_experts_key = b"expert_used_count"


class TensorShares:
    """Counts the bytes of weights and caches that each of `devices` gets of `model`, which they share."""

    def __init__(self, model: int, devices: Sequence[VirtualDevice]) -> None:
        """Raises NotBuilt if this build of llama.cpp lacks a function."""
        if _split_state is None or _usage is None:
            raise NotBuilt("this build of llama.cpp lacks functions that a dry run of a tensor split calls")
        self._devices = devices
        self._user_data = _UserData(len(devices), model)
        self._used_experts = _used_experts(model)
        self._weights_bytes = [0] * len(devices)
        self._context_bytes = [0] * len(devices)
        self._sum_rows = 0  # elements of the largest partial sum, for one token
        self._fault = ""  # why a real load would abort or compute nonsense; empty: it would not

    def count(self, address: int) -> None:
        """Count the weight or the cache tensor at `address`. llama.cpp calls it, so it raises nothing."""
        tensor = GgmlTensor.from_address(address)
        state = _split_state(address, ctypes.addressof(self._user_data))
        is_weight = bool(tensor.buffer) and _usage(tensor.buffer) == _WEIGHTS_USAGE
        sums = self._weights_bytes if is_weight else self._context_bytes
        for i, device in enumerate(self._devices):
            sums[i] += device.padded_bytes(self._slice(tensor, state, i))
        if is_weight and state.axis == 0 and tensor.ne[1] > 1:
            n_experts = self._used_experts if tensor.ne[2] > 1 else 1
            self._sum_rows = max(self._sum_rows, tensor.ne[1] * n_experts)

    def uses(self, compute_bytes: int, n_tokens: int, states_bytes: Sequence[int]) -> list[MemoryUse]:
        """The bytes on each device, in order.

        `compute_bytes` is the size of the graph's buffer, `n_tokens` are the rows of the largest graph, and
        `states_bytes` the recurrent states on each device. Raises ModelRefused if llama.cpp would abort with
        these shares, or compute nonsense: the partial sum of a device without a share of a tensor is memory
        that nobody has written, times 0, which is NaN if it happens to be one (`allreduce_fallback`).
        """
        if self._fault:
            raise ModelRefused(f"{self._fault}; take other shares")
        n_steps = math.ceil(math.log2(len(self._devices)))
        reduce_bytes = n_steps * _F32_BYTES * n_tokens * self._sum_rows
        return [
            MemoryUse(weights, context + states, compute_bytes + reduce_bytes)
            for weights, context, states in zip(
                self._weights_bytes, self._context_bytes, states_bytes, strict=True
            )
        ]

    def _slice(self, tensor: GgmlTensor, state: _SplitState, index: int) -> GgmlTensor:
        """The part of a tensor on device number `index` (ggml_backend_meta_buffer_init_tensor_impl)."""
        part = GgmlTensor.from_buffer_copy(tensor)
        axis = state.axis
        if not 0 <= axis < MAX_DIMS:
            return part
        own: list[int] = [state.ne[s * len(self._devices) + index] for s in range(state.n_segments)]
        block = TYPES[tensor.type].block if axis == 0 else 1
        if any(n % block for n in own):
            self._fault = f"a tensor split would cut {tensor.name.decode()} within a block of {block} values"
            return part
        part.ne[axis] = sum(n * state.nr[s] for s, n in enumerate(own))
        if not part.ne[axis]:
            self._fault = f"a device would get no share of {tensor.name.decode()}"
        for i in range(MAX_DIMS):
            if tensor.nb[i] > tensor.nb[axis]:
                part.nb[i] = tensor.nb[i] * part.ne[axis] // tensor.ne[axis]
        return part


def _used_experts(model: int) -> int:
    """Experts that a token uses; 1 for a dense model."""
    name, value = ctypes.create_string_buffer(64), ctypes.create_string_buffer(32)
    b.C.llama_model_meta_val_str(model, b"general.architecture", name, len(name))
    n = b.C.llama_model_meta_val_str(model, name.value + b"." + _n_experts_key, value, len(value))
    return int(value.value) if n > 0 else 1
