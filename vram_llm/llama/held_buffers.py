"""Counts the buffers that llama.cpp allocates on devices that share tensors.

llama.cpp reports one sum for all of them (ggml's meta device), so the function of their buffer types that
allocates is replaced by one that counts (ggml_backend_buffer_type_i in ggml-backend-impl.h). Buffers that are
freed are not seen: back ends recognise their buffers by the function that frees them.
"""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

from vram_llm.llama import bindings as b
from vram_llm.planner.estimates import MemoryUse

_ALLOCATE = ctypes.CFUNCTYPE(b.Pointer, b.Pointer, ctypes.c_size_t)
_kept: list[object] = []  # functions that C calls as long as the process lives


class _BufferTypeHead(ctypes.Structure):
    """The first members of a ggml_backend_buffer_type."""

    _fields_ = [("get_name", b.Pointer), ("alloc_buffer", b.Pointer)]


class HeldBuffers:
    """Bytes of the buffers on each device of `handles` that are allocated from now on."""

    def __init__(self, handles: Sequence[int]) -> None:
        self._sizes = [list[int]() for _ in handles]  # of each device's buffers, in the order they came
        self._marks: list[list[int]] = []  # how many buffers there were
        for handle, sizes in zip(handles, self._sizes, strict=True):
            _count(_BufferTypeHead.from_address(b.dev_buffer_type(handle)), sizes)

    def mark(self) -> None:
        """Call it after the model is loaded, and again after its context is made."""
        self._marks.append([len(sizes) for sizes in self._sizes])

    def uses(self, graph_bytes: int) -> list[MemoryUse]:
        """Memory on each device, in order. `graph_bytes` is the size of the compute buffer on each.

        Later buffers are for sums: one for each step of a reduction, made again for larger batches.
        """
        n_steps = math.ceil(math.log2(max(len(self._sizes), 1)))
        found = []
        for sizes, loaded, made in zip(self._sizes, *self._marks, strict=True):
            sum_bytes = max((size for size in sizes[made:] if size != graph_bytes), default=0)
            context_bytes = sum(sizes[loaded:made]) - graph_bytes
            found.append(MemoryUse(sum(sizes[:loaded]), context_bytes, graph_bytes + n_steps * sum_bytes))
        return found


def _count(buffer_type: _BufferTypeHead, sizes: list[int]) -> None:
    """Note the size of each new buffer of this type in `sizes`."""
    allocate = _ALLOCATE(buffer_type.alloc_buffer)

    def allocate_and_count(address: int, n_bytes: int) -> int | None:
        buffer: int | None = allocate(address, n_bytes)
        if buffer is not None:
            sizes.append(n_bytes)
        return buffer

    counting: Any = _ALLOCATE(allocate_and_count)
    _kept.append(counting)
    buffer_type.alloc_buffer = ctypes.cast(counting, b.Pointer).value
