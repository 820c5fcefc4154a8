"""Bytes of tensors in a buffer: `ggml_backend_alloc_ctx_tensors_from_buft_impl` in ggml-alloc.c."""

from collections.abc import Iterable

from vram_llm.model.gguf import TensorInfo
from vram_llm.model.quants import row_bytes
from vram_llm.model.tensors import Tensor


def pad(n: int, to: int) -> int:
    """`n` rounded up to a multiple of `to`."""
    return -(-n // to) * to


def padded(tensors: Iterable[Tensor | TensorInfo], alignment: int, row_padding: int) -> int:
    """Bytes of all tensors; quantised rows are padded to a multiple of `row_padding`."""
    total = 0
    for tensor in tensors:
        n_bytes = tensor.n_bytes
        if row_padding and tensor.type.is_quantized and tensor.shape[0] % row_padding:
            n_bytes += row_bytes(tensor.type, row_padding - tensor.shape[0] % row_padding)
        total += pad(n_bytes, alignment)
    return total
