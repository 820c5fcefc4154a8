"""The kernels of each kind of device. llama.cpp computes an operation without a kernel on the host.

Source: ggml_cuda_get_best_fattn_kernel (ggml-cuda/fattn.cu; ROCm is built from the same files),
ggml_backend_cuda_device_supports_op and ggml_metal_device_supports_op of llama-cpp-python 0.3.36. Vulkan,
SYCL, RPC and the processor have kernels for all head sizes in use.
"""

from collections.abc import Collection

from vram_llm.machine.types import DeviceKind

_CUDA_LIKE = frozenset({DeviceKind.CUDA, DeviceKind.ROCM})

HEAD_SIZES = {
    DeviceKind.CUDA: frozenset({40, 64, 72, 80, 96, 112, 128, 256}),
    DeviceKind.ROCM: frozenset({40, 64, 72, 80, 96, 112, 128, 256}),
    DeviceKind.METAL: frozenset({32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576}),
}
"""Sizes of a key, in elements, with flash attention. On CUDA, the value must have the same size."""

GROUPED_HEAD_SIZES = {192: (128, 8), 320: (256, 32), 512: (512, 1), 576: (512, 1)}
"""CUDA's further sizes of a key: the size of the value, and a divisor of the number of queries per key."""

MIN_GROUP_SIZE = 2

FLASH_CACHE_TYPES = frozenset({"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"})

F16_COPY_KINDS = frozenset({DeviceKind.CUDA, DeviceKind.ROCM, DeviceKind.SYCL, DeviceKind.METAL})
"""Kinds whose flash attention needs f16: a cache of another type is copied."""

OFFLOADING_KINDS = frozenset(DeviceKind) - {DeviceKind.RPC}
"""Kinds that, with `op_offload`, take over operations with weights on the host (offload_op)."""
MIN_OFFLOADED_BATCH = 32  # rows: the default of GGML_OP_OFFLOAD_MIN_BATCH

EXPERT_FUSING_KINDS = _CUDA_LIKE
"""Kinds that keep all experts' outputs until they are added up."""
MAX_FUSED_EXPERTS = 15  # MOE_WEIGHTED_REDUCTION_MAX_EXPERTS

SCAN_STATE_SIZES = {
    DeviceKind.CUDA: frozenset({96, 128, 256}),
    DeviceKind.ROCM: frozenset({96, 128, 256}),
    DeviceKind.VULKAN: frozenset({128, 256}),
    DeviceKind.SYCL: frozenset({128, 256}),
}
"""State sizes with a kernel for Mamba 2's scan."""


def has_flash_attention(
    kinds: Collection[DeviceKind], head: tuple[int, int], per_head: int, caches: Collection[str]
) -> bool:
    """Whether every kind of device has a flash attention kernel for a head.

    `head` is the size of its key and of its value, in elements. `per_head` is the number of queries that
    share it. `caches` are the types of stored keys and values.
    """
    key, value = head
    value_size, divisor = GROUPED_HEAD_SIZES.get(key, (0, 1))
    is_grouped = value == value_size and per_head >= MIN_GROUP_SIZE and per_head % divisor == 0
    for kind in HEAD_SIZES.keys() & set(kinds):
        is_plain = key in HEAD_SIZES[kind] and (key == value or kind == DeviceKind.METAL)
        if not FLASH_CACHE_TYPES.issuperset(caches) or not (is_plain or (is_grouped and kind in _CUDA_LIKE)):
            return False
    return True


def has_scan(kinds: Collection[DeviceKind], n_state: int, n_per_head: int) -> bool:
    """Whether every kind of device has a kernel of Mamba 2's scan for these sizes of states and heads."""
    return all(n_state in SCAN_STATE_SIZES.get(kind, (n_state,)) for kind in kinds) and (
        n_per_head % 16 == 0 or _CUDA_LIKE.isdisjoint(kinds)
    )
