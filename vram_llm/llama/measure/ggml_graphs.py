"""Graphs of single operations on the processor, made and run by ggml: matrices, experts, attention.

Weights are views of one buffer of random bytes, which are blocks of any quantised type. Their scales are as
close to each other as those of trained weights: ggml looks halves up in a table of 256 KiB (ggml-cpu.c). With
scales of any size an AMD EPYC multiplied by Q8_0 at 9 GB/s instead of 25, by Q4_K at 13 instead of 17.
"""

import ctypes
import time
from collections.abc import Sequence

import numpy as np

from vram_llm.llama import bindings as b
from vram_llm.llama.measure.transfer import InitParams
from vram_llm.model.quants import TYPES

WIDTH = 2048  # of a row of weights: a multiple of every type's block
_N_EXPERTS, _N_USED, _EXPERT_ROWS = 32, 8, 512
_HEAD, _N_HEADS, _N_KV_HEADS = 128, 32, 8
_ALIGNMENT = 64
_F32, _F16, _I32 = 0, 1, 26  # enum ggml_type
# Any two of these in a row are a half between 2^-7 and 2^-3, and any one is an exponent of MXFP4.
_SCALE_BYTES = np.arange(0x20, 0x30, dtype=np.uint8)
_IDS = {each.name: each for each in TYPES.values()}

_int64 = ctypes.c_int64
_init = b.declare("ggml_init", b.Pointer, InitParams)
_free = b.declare("ggml_free", None, b.Pointer)
_new_tensor = b.declare("ggml_new_tensor_4d", b.Pointer, b.Pointer, ctypes.c_int, *[_int64] * 4)
_n_bytes = b.declare("ggml_nbytes", ctypes.c_size_t, b.Pointer)
_mul_mat = b.declare("ggml_mul_mat", b.Pointer, b.Pointer, b.Pointer, b.Pointer)
_mul_mat_id = b.declare("ggml_mul_mat_id", b.Pointer, b.Pointer, b.Pointer, b.Pointer, b.Pointer)
_attention = b.declare(
    "ggml_flash_attn_ext", b.Pointer, *[b.Pointer] * 5, ctypes.c_float, ctypes.c_float, ctypes.c_float
)
_new_graph = b.declare("ggml_new_graph", b.Pointer, b.Pointer)
_expand = b.declare("ggml_build_forward_expand", None, b.Pointer, b.Pointer)
_from_pointer = b.declare("ggml_backend_cpu_buffer_from_ptr", b.Pointer, b.Pointer, ctypes.c_size_t)
_place = b.declare("ggml_backend_tensor_alloc", ctypes.c_int, b.Pointer, b.Pointer, b.Pointer)
_alloc = b.declare("ggml_backend_alloc_ctx_tensors_from_buft", b.Pointer, b.Pointer, b.Pointer)
_free_buffer = b.declare("ggml_backend_buffer_free", None, b.Pointer)
_cpu_buffers = b.declare("ggml_backend_cpu_buffer_type", b.Pointer)
_set = b.declare("ggml_backend_tensor_set", None, b.Pointer, b.Pointer, ctypes.c_size_t, ctypes.c_size_t)
_new_backend = b.declare("ggml_backend_cpu_init", b.Pointer)
_set_threads = b.declare("ggml_backend_cpu_set_n_threads", None, b.Pointer, ctypes.c_int)
_compute = b.declare("ggml_backend_graph_compute", ctypes.c_int, b.Pointer, b.Pointer)
_free_backend = b.declare("ggml_backend_free", None, b.Pointer)


def can_run() -> bool:
    """Whether this build has the processor's back end in the library itself, not in a module of its own."""
    return None not in (_new_backend, _set_threads, _from_pointer)


class CpuBackend:
    """ggml's back end for the processor, and memory for weights. Call `close` at the end."""

    def __init__(self, n_bytes: int) -> None:
        """`n_bytes` of random weights, more than caches hold."""
        chunk = np.random.default_rng(1).choice(_SCALE_BYTES, 2**22)
        self.weights = np.resize(chunk, n_bytes // _ALIGNMENT * _ALIGNMENT + _ALIGNMENT)
        offset = -self.weights.ctypes.data % _ALIGNMENT
        self._first = self.weights.ctypes.data + offset
        self.n_bytes = len(self.weights) - _ALIGNMENT
        self.buffer = _from_pointer(self._first, self.n_bytes)
        self._backend = _new_backend()

    def run_s(self, graph: "Graph", n_threads: int) -> float:
        """Seconds of one run."""
        _set_threads(self._backend, n_threads)
        began = time.perf_counter()
        _compute(self._backend, graph.graph)
        return time.perf_counter() - began

    def place(self, tensor: int, offset: int) -> None:
        """Let a tensor of weights lie in the memory, at `offset`."""
        _place(self.buffer, tensor, self._first + offset)

    def close(self) -> None:
        """Free the back end and the memory."""
        _free_backend(self._backend)
        _free_buffer(self.buffer)


class Graph:
    """Operations in a row. `n_bytes` of weights are read and `products` computed in one run."""

    def __init__(self) -> None:
        self._ctx = _init(InitParams(2**21, None, True))
        self.graph = _new_graph(self._ctx)
        self._buffer = 0
        self.n_bytes, self.products = 0, 0

    @classmethod
    def matrices(cls, on: CpuBackend, type_name: str, rows: int, n_bytes: int) -> "Graph":
        """Matrices of WIDTH x WIDTH with `n_bytes` altogether, times `rows` rows."""
        made = cls()
        stored = _IDS[type_name]
        size = WIDTH * WIDTH // stored.block * stored.block_bytes
        pairs = []
        for _ in range(max(n_bytes // size, 1)):
            weights = made._tensor(stored.id, WIDTH, WIDTH)
            on.place(weights, made.n_bytes)
            pairs.append((weights, made._tensor(_F32, WIDTH, rows)))
            made.n_bytes += size
        made._add([_mul_mat(made._ctx, *pair) for pair in pairs])
        made._fill([row for _, row in pairs])
        made.products = rows * len(pairs) * WIDTH * WIDTH
        return made

    @classmethod
    def experts(cls, on: CpuBackend, type_name: str, n_bytes: int) -> "Graph":
        """Experts for one row, as many layers as `n_bytes` hold: each runs four times, with other experts."""
        made = cls()
        stored = _IDS[type_name]
        size = _N_EXPERTS * _EXPERT_ROWS * WIDTH // stored.block * stored.block_bytes
        layers = max(n_bytes // size, 1)
        chosen: list[tuple[int, np.ndarray]] = []
        rows, results, rng = [], [], np.random.default_rng(2)
        for layer in range(layers):
            weights = made._tensor(stored.id, WIDTH, _EXPERT_ROWS, _N_EXPERTS)
            on.place(weights, layer * size)
            for experts in rng.permutation(_N_EXPERTS).reshape(-1, _N_USED):
                ids, row = made._tensor(_I32, _N_USED, 1), made._tensor(_F32, WIDTH, 1, 1)
                chosen.append((ids, experts.astype(np.int32)))
                rows.append(row)
                results.append(_mul_mat_id(made._ctx, weights, row, ids))
        made._add(results)
        made._fill(rows)
        for ids, experts in chosen:
            _set(ids, experts.ctypes.data, 0, experts.nbytes)
        made.n_bytes = layers * size
        made.products = layers * _N_EXPERTS * _EXPERT_ROWS * WIDTH
        return made

    @classmethod
    def attention(cls, n_cells: int) -> "Graph":
        """One row's attention over an f16 cache of `n_cells`."""
        made = cls()
        query = made._tensor(_F32, _HEAD, 1, _N_HEADS)
        keys, values = (made._tensor(_F16, _HEAD, n_cells, _N_KV_HEADS) for _ in range(2))
        mask = made._tensor(_F16, n_cells, 1)
        made._add([_attention(made._ctx, query, keys, values, mask, _HEAD**-0.5, 0.0, 0.0)])
        made._fill([query])
        cache = np.random.default_rng(3).standard_normal(_HEAD * n_cells * _N_KV_HEADS).astype(np.float16)
        for tensor in (keys, values):
            _set(tensor, cache.ctypes.data, 0, cache.nbytes)
        zeros = np.zeros(n_cells, np.float16)
        _set(mask, zeros.ctypes.data, 0, zeros.nbytes)
        made.products = 2 * _N_HEADS * _HEAD * n_cells
        return made

    def close(self) -> None:
        """Free it."""
        _free_buffer(self._buffer)
        _free(self._ctx)

    def _tensor(self, type_id: int, *shape: int) -> int:
        return int(_new_tensor(self._ctx, type_id, *shape, *[1] * (4 - len(shape))))

    def _add(self, results: Sequence[int]) -> None:
        """End the graph with these results, and allocate all tensors that lie nowhere yet."""
        for result in results:
            _expand(self.graph, result)
        self._buffer = _alloc(self._ctx, _cpu_buffers())

    def _fill(self, tensors: Sequence[int]) -> None:
        """Random activations."""
        for tensor in tensors:
            n_bytes = int(_n_bytes(tensor))
            values = np.random.default_rng(4).standard_normal(n_bytes // 4).astype(np.float32)
            _set(tensor, values.ctypes.data, 0, n_bytes)
