"""Kernels of each kind of device, where a missing kernel moves an operation to the host.

Source: ggml_cuda_get_best_fattn_kernel (ggml-cuda/fattn.cu; ROCm is built from the same files),
ggml_backend_cuda_device_supports_op and ggml_metal_device_supports_op of llama-cpp-python 0.3.36. Vulkan,
SYCL, RPC and the processor have kernels for all head sizes in use.
"""

from collections.abc import Collection

from vram_llm.machine.types import DeviceKind

_CUDA_LIKE = frozenset({DeviceKind.CUDA, DeviceKind.ROCM})

HEADS = {
    DeviceKind.CUDA: frozenset({40, 64, 72, 80, 96, 112, 128, 256}),
    DeviceKind.ROCM: frozenset({40, 64, 72, 80, 96, 112, 128, 256}),
    DeviceKind.METAL: frozenset({32, 40, 48, 64, 72, 80, 96, 112, 128, 192, 256, 320, 512, 576}),
}
"""Sizes of a key, in elements, that have flash attention; on CUDA, the value must have the same size."""

GROUPED_HEADS = {192: (128, 8), 320: (256, 32), 512: (512, 1), 576: (512, 1)}
"""CUDA's other sizes: key size to value size, and the number that queries per key must be a multiple of."""

LEAST_GROUP = 2

FLASH_CACHES = frozenset({"f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"})

F16_KINDS = frozenset({DeviceKind.CUDA, DeviceKind.ROCM, DeviceKind.SYCL, DeviceKind.METAL})
"""Kinds whose flash attention copies a cache of another type to f16."""

OFFLOADING_KINDS = frozenset(DeviceKind) - {DeviceKind.RPC}
"""Kinds that take over operations with weights on the host, with `op_offload` (offload_op)."""
LEAST_OFFLOADED_BATCH = 32  # rows: the default of GGML_OP_OFFLOAD_MIN_BATCH

FUSING_KINDS = _CUDA_LIKE
"""Kinds that keep the experts' outputs until they are added up."""
MAX_FUSED_EXPERTS = 15  # MOE_WEIGHTED_REDUCTION_MAX_EXPERTS

SCAN_STATES = {
    DeviceKind.CUDA: frozenset({96, 128, 256}),
    DeviceKind.ROCM: frozenset({96, 128, 256}),
    DeviceKind.VULKAN: frozenset({128, 256}),
    DeviceKind.SYCL: frozenset({128, 256}),
}
"""State sizes that have a kernel for Mamba 2's scan."""


def has_flash_attention(
    kinds: Collection[DeviceKind], head: tuple[int, int], per_head: int, caches: Collection[str]
) -> bool:
    """Whether every kind of device has a flash attention kernel for a head.

    `head` is the size of its key and of its value, in elements. `per_head` is the number of queries that
    share it. `caches` are the types that keys and values are stored as.
    """
    key, value = head
    wanted, multiple = GROUPED_HEADS.get(key, (0, 1))
    is_grouped = value == wanted and per_head >= LEAST_GROUP and per_head % multiple == 0
    for kind in HEADS.keys() & set(kinds):
        is_plain = key in HEADS[kind] and (key == value or kind == DeviceKind.METAL)
        if not FLASH_CACHES.issuperset(caches) or not (is_plain or (is_grouped and kind in _CUDA_LIKE)):
            return False
    return True


def has_scan(kinds: Collection[DeviceKind], n_state: int, n_per_head: int) -> bool:
    """Whether every kind of device has Mamba 2's scan for states of `n_state` and heads of `n_per_head`."""
    return all(n_state in SCAN_STATES.get(kind, (n_state,)) for kind in kinds) and (
        n_per_head % 16 == 0 or _CUDA_LIKE.isdisjoint(kinds)
    )
