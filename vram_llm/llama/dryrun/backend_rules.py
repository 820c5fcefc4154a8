"""Rules of each ggml back end that decide how many bytes a model takes on its devices.

Source, in llama-cpp-python 0.3.36: ggml/src/ggml-cuda/ggml-cuda.cu and fattn.cu (ROCm is built from the same
files), ggml-metal/ggml-metal.cpp, ggml-metal-ops.cpp and ggml-metal-device.m, ggml-vulkan/ggml-vulkan.cpp,
ggml-sycl/ggml-sycl.cpp and fattn.cpp, ggml-rpc/ggml-rpc.cpp.

One rule is left out: Vulkan and Metal reorder a graph before its tensors get addresses (graph_optimize),
which changes compute by several per cent. If such devices are in this machine, placements are measured on
them (client.py).
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from vram_llm.llama.dryrun.ggml_structs import OPS, GgmlTensor
from vram_llm.machine.types import DeviceKind
from vram_llm.model.quants import KV_TYPES, TYPES
from vram_llm.planner.memory.backend_kernels import (
    FLASH_CACHE_TYPES,
    GROUPED_HEAD_SIZES,
    HEAD_SIZES,
    MIN_GROUP_SIZE,
    MIN_OFFLOADED_BATCH,
    SCAN_STATE_SIZES,
)
from vram_llm.planner.padding import pad
from vram_llm.units import GIB

_F32, _F16, _BF16 = 0, 1, 30
_CACHE_TYPES = {KV_TYPES[name].id for name in FLASH_CACHE_TYPES}
_CELL_STRIDE = 256  # FATTN_KQ_STRIDE
_F16_BYTES, _F32_BYTES = 2, 4

SupportsOp = Callable[[GgmlTensor], bool]  # whether a device can run an operation
BatchSize = Callable[[GgmlTensor], int]  # rows of an operation, which decide whether it is offloaded
ScratchBytes = Callable[[GgmlTensor], int]  # bytes of an operation's result beyond ggml_nbytes


@dataclass(frozen=True, slots=True)
class BackendRules:
    """The capabilities of a back end (ggml_backend_dev_caps), and the rules of its operations and buffers."""

    registry: str  # the name of its ggml registry
    host_alignment: int = 0  # of its pinned host buffers, in bytes; 0: it has none
    from_host_pointer: bool = False  # whether it makes buffers of mapped files
    max_buffer_bytes: int = 0  # 0: no limit
    supports: Mapping[int, SupportsOp] = field(default_factory=lambda: MappingProxyType({}))  # by operation
    scratch: Mapping[int, ScratchBytes] = field(default_factory=lambda: MappingProxyType({}))  # by operation
    scratch_for_f16: bool = False  # whether `scratch` has bytes even if the cache is f16
    fuses_experts: bool = False  # whether it keeps all experts' outputs until they are added up
    batch_size: BatchSize | None = None  # for offload_op; None: it takes over no operation from the host


def input_tensor(op: GgmlTensor, i: int) -> GgmlTensor | None:
    """Input number `i` of an operation; None if it has none."""
    return GgmlTensor.from_address(op.src[i]) if op.src[i] else None


def _query_key_value(op: GgmlTensor) -> tuple[GgmlTensor, GgmlTensor, GgmlTensor]:
    q, k, v = (input_tensor(op, i) for i in range(3))
    assert q is not None
    assert k is not None
    assert v is not None
    return q, k, v


def _elements(tensor: GgmlTensor) -> int:
    ne = tensor.ne
    return int(ne[0] * ne[1] * ne[2] * ne[3])


def _is_view_of(v: GgmlTensor, k: GgmlTensor, k_address: int) -> bool:
    """Whether V is a view of K, as with MLA."""
    return bool(
        v.view_src and (v.view_src == k_address or (v.view_src == k.view_src and v.view_offs == k.view_offs))
    )


def _f16_copies(op: GgmlTensor) -> int:
    """Bytes of the f16 copies of a K and V of other types (ggml_cuda_flash_attn_ext_get_f16_extra_data).

    The kernels for one or two tokens need no copies, but graphs are reserved for more tokens.
    """
    _, k, v = _query_key_value(op)
    result = end = _F32_BYTES * _elements(op)
    if k.type != _F16:
        end = pad(end, 128) + _F16_BYTES * _elements(k)
    if v.type != _F16 and not _is_view_of(v, k, op.src[1]):
        end = pad(end, 128) + _F16_BYTES * _elements(v)
    return end - result


def _cuda_flash_attention(op: GgmlTensor) -> bool:
    """Whether CUDA has a kernel for these head sizes and cache types (ggml_cuda_get_best_fattn_kernel)."""
    q, k, v = _query_key_value(op)
    head_k, head_v, mask = k.ne[0], v.ne[0], input_tensor(op, 3)
    per_head = q.ne[2] // k.ne[2]
    grouped = per_head >= MIN_GROUP_SIZE and mask is not None and not op.op_params[1]
    grouped = grouped and k.ne[1] % _CELL_STRIDE == 0
    for tensor in (q, k, v, mask):
        if tensor is not None and not TYPES[tensor.type].is_quantized:
            grouped = grouped and all(tensor.nb[i] % 16 == 0 for i in range(1, 4))
    wanted, multiple = GROUPED_HEAD_SIZES.get(head_k, (0, 1))
    fits = head_k == head_v and head_k in HEAD_SIZES[DeviceKind.CUDA]
    fits = fits or (head_v == wanted and grouped and per_head % multiple == 0)
    return fits and {k.type, v.type} <= _CACHE_TYPES and (mask is None or mask.ne[2] == 1)


def _cuda_ssm_scan(op: GgmlTensor) -> bool:
    """Whether CUDA has a scan for these shapes of Mamba or Mamba 2 (ggml_backend_cuda_device_supports_op)."""
    state, a, groups = input_tensor(op, 0), input_tensor(op, 3), input_tensor(op, 4)
    assert state is not None
    assert a is not None
    assert groups is not None
    if a.ne[0] == 1:
        return state.ne[0] in SCAN_STATE_SIZES[DeviceKind.CUDA] and state.ne[1] % 16 == 0
    fits = state.ne[0] == 16 and state.ne[1] == 1 and state.ne[2] % 128 == 0
    return bool(op.op_params[0] <= 1 and fits and groups.ne[1] == 1)


def _vulkan_ssm_scan(op: GgmlTensor) -> bool:
    """Whether the kernels of Vulkan and SYCL, which are for Mamba 2, support this state size."""
    state, a = input_tensor(op, 0), input_tensor(op, 3)
    sizes = SCAN_STATE_SIZES[DeviceKind.VULKAN]
    return state is not None and a is not None and a.ne[0] == 1 and state.ne[0] in sizes


def _cuda_ssm_conv(op: GgmlTensor) -> bool:
    sequence = input_tensor(op, 0)
    return sequence is not None and sequence.ne[1] % 128 == 0


def _metal_flash_attention(op: GgmlTensor) -> bool:
    """Whether a GPU with matrix units (Apple 7 and later) has a kernel (ggml_metal_device_supports_op)."""
    q, k, v = _query_key_value(op)
    fits = q.ne[0] in HEAD_SIZES[DeviceKind.METAL] and k.ne[0] >= v.ne[0]
    return fits and k.type == v.type and k.type in _CACHE_TYPES - {_BF16}


def _metal_flash_attention_scratch(op: GgmlTensor) -> int:
    """The sum of ggml_metal_op_flash_attn_ext_extra_{pad,blk,tmp,kv_f16}; Metal always reserves all four."""
    q, k, v = _query_key_value(op)
    mask = input_tensor(op, 3)
    is_view = _is_view_of(v, k, op.src[1])
    as_f16 = q.ne[1] >= 32 and TYPES[k.type].is_quantized
    k_row = _F16_BYTES * k.ne[0] if as_f16 else k.nb[1]
    v_row = _F16_BYTES * (k.ne[0] if is_view else v.ne[0]) if as_f16 else v.nb[1]
    padding = k_row * k.ne[2] * k.ne[3] + v_row * v.ne[2] * v.ne[3]
    blocks = 0
    if mask is not None:
        padding += _F16_BYTES * mask.ne[1] * mask.ne[2] * mask.ne[3]
        by_vector = q.ne[1] < 20 and q.ne[0] % 32 == 0
        rows, cells = (1, 32) if by_vector else (8, 64)  # of one threadgroup
        blocks = -(-mask.ne[0] // cells) * -(-q.ne[1] // rows) * mask.ne[2] * mask.ne[3]
    partial = 4 * min(q.ne[1], 32) * q.ne[2] * q.ne[3] * 32 * (v.ne[0] + 2)
    f16_copies = pad(_F16_BYTES * _elements(k), 16) + (0 if is_view else pad(_F16_BYTES * _elements(v), 16))
    return int(64 * padding + pad(blocks, 32) + partial + f16_copies)


def _metal_experts_scratch(op: GgmlTensor) -> int:
    """The sum of ggml_metal_op_mul_mat_id_extra_{tpe,ids,amax}."""
    experts, ids = input_tensor(op, 0), input_tensor(op, 2)
    assert experts is not None
    assert ids is not None
    return int(4 * experts.ne[2] * (1 + ids.ne[1]) + 8 + 256 * 4)


def _sycl_flash_attention_scratch(op: GgmlTensor) -> int:
    """The largest ggml_sycl_fattn_get_extra of all kernels: with oneDNN, Q and the result are f16 as well."""
    q, k, _ = _query_key_value(op)
    return _f16_copies(op) + 2 * _F16_BYTES * int(q.ne[2] * q.ne[1] * k.ne[0]) + 5 * 128


def _vulkan_flash_attention(op: GgmlTensor) -> bool:
    """Whether a GPU with subgroup shuffles has a kernel (ggml_backend_vk_device_supports_op)."""
    _, k, v = _query_key_value(op)
    types = {k.type, v.type}
    known = types <= _CACHE_TYPES | {20} and (_BF16 not in types or len(types) == 1)
    return k.ne[0] % 8 == 0 and v.ne[0] % 8 == 0 and known


def batch_size(op: GgmlTensor) -> int:
    """The rows that an operation multiplies with its weights: get_op_batch_size of CUDA, Vulkan and SYCL."""
    if op.op == OPS["GET_ROWS"]:
        return 0
    if op.op == OPS["MUL_MAT"]:
        return int(op.ne[1])
    if op.op in (OPS["MUL_MAT_ID"], OPS["ROPE"], OPS["ROPE_BACK"]):
        return int(op.ne[2])
    return int(op.ne[1] * op.ne[2] * op.ne[3])


def _metal_batch_size(op: GgmlTensor) -> int:
    """Rows of matrix products; 0 for other operations (ggml_backend_metal_device_offload_op)."""
    return batch_size(op) if op.op in (OPS["MUL_MAT"], OPS["MUL_MAT_ID"]) else 0


def min_offloaded_batch() -> int:
    """The smallest batch size of an operation that a device takes over from the host.

    $GGML_OP_OFFLOAD_MIN_BATCH sets it; all back ends parse that by atoi.
    """
    text = os.environ.get("GGML_OP_OFFLOAD_MIN_BATCH", str(MIN_OFFLOADED_BATCH))
    number = re.match(r"\s*[-+]?\d+", text)
    return int(number[0]) if number else 0


def _second_copy(op: GgmlTensor) -> int:
    """Bytes of one more copy of the result, which has elements of 4 bytes."""
    return int(_F32_BYTES * _elements(op))


_ATTENTION = OPS["FLASH_ATTN_EXT"]
_CUDA = BackendRules(
    "CUDA",
    host_alignment=32,
    supports={
        _ATTENTION: _cuda_flash_attention,
        OPS["SSM_SCAN"]: _cuda_ssm_scan,
        OPS["SSM_CONV"]: _cuda_ssm_conv,
    },
    scratch={_ATTENTION: _f16_copies},
    fuses_experts=True,
    batch_size=batch_size,
)

BACKEND_RULES: Mapping[DeviceKind, BackendRules] = {
    DeviceKind.CUDA: _CUDA,
    DeviceKind.ROCM: replace(_CUDA, registry="ROCm"),
    # Vulkan limits a buffer to 1 GiB against fragmentation (suballocation_block_size).
    DeviceKind.VULKAN: BackendRules(
        "Vulkan",
        host_alignment=64,
        max_buffer_bytes=GIB,
        supports={_ATTENTION: _vulkan_flash_attention, OPS["SSM_SCAN"]: _vulkan_ssm_scan},
        batch_size=batch_size,
    ),
    DeviceKind.METAL: BackendRules(
        "MTL",
        from_host_pointer=True,
        scratch_for_f16=True,
        batch_size=_metal_batch_size,
        supports={_ATTENTION: _metal_flash_attention},
        scratch={
            _ATTENTION: _metal_flash_attention_scratch,
            OPS["MUL_MAT_ID"]: _metal_experts_scratch,
            OPS["ARGSORT"]: _second_copy,
            OPS["CUMSUM"]: _second_copy,
        },
    ),
    DeviceKind.SYCL: BackendRules(
        "SYCL",
        host_alignment=32,
        supports={OPS["SSM_SCAN"]: _vulkan_ssm_scan},
        scratch={_ATTENTION: _sycl_flash_attention_scratch},
        scratch_for_f16=True,
        batch_size=batch_size,
    ),
    # RPC supports every operation, and gets sizes from the worker: on its CPU they are ggml_nbytes.
    DeviceKind.RPC: BackendRules("RPC"),
}
"""The rules by kind of device.

All back ends compute asynchronously and have events (ggml_backend_dev_caps).
"""
