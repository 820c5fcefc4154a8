"""Tensors of a loaded model that lie in its mapped file, and their addresses.

They are found in `llama_internal_get_tensor_map`, a `std::vector<std::pair<std::string, ggml_tensor *>>` of
libstdc++.
"""

import ctypes
from collections.abc import Iterator
from typing import NamedTuple

from vram_llm.errors import NotBuilt
from vram_llm.llama import bindings as b

_MAPPED = b"CPU_Mapped"  # ggml_backend_cpu_buffer_from_ptr_type


class MappedTensor(NamedTuple):
    """A tensor whose data are in the mapped file."""

    name: str
    address: int
    n_bytes: int


class _Vector(ctypes.Structure):
    """A std::vector."""

    _fields_ = [("begin", ctypes.c_size_t), ("end", ctypes.c_size_t), ("capacity", ctypes.c_size_t)]


class _NamedTensor(ctypes.Structure):
    """A pair of a std::string and a ggml_tensor *."""

    _fields_ = [("name", ctypes.c_char * 32), ("tensor", b.Pointer)]


class _TensorHead(ctypes.Structure):
    """The first members of ggml_tensor."""

    _fields_ = [("type", ctypes.c_int), ("buffer", b.Pointer)]


_tensor_map = b.declare("_Z29llama_internal_get_tensor_mapB5cxx11PK11llama_model", b.Pointer, b.Pointer)
_name = b.declare("ggml_get_name", ctypes.c_char_p, b.Pointer)
_data = b.declare("ggml_get_data", b.Pointer, b.Pointer)
_nbytes = b.declare("ggml_nbytes", ctypes.c_size_t, b.Pointer)
_buffer_type = b.declare("ggml_backend_buffer_get_type", b.Pointer, b.Pointer)


def is_mapped(buffer_type: int) -> bool:
    """Whether buffers of this type are in a mapped file."""
    return bool(b.buft_name(buffer_type) == _MAPPED)


def mapped_tensors(model: int) -> Iterator[MappedTensor]:
    """The tensors of a model that are in the mapped file.

    Raises NotBuilt if this build does not list its tensors (its C++ library is not libstdc++).
    """
    if _tensor_map is None:
        raise NotBuilt("this build of llama.cpp does not tell where its tensors are")
    found = _Vector.from_address(_tensor_map(model))
    for address in range(found.begin, found.end, ctypes.sizeof(_NamedTensor)):
        tensor = _NamedTensor.from_address(address).tensor
        buffer = _TensorHead.from_address(tensor).buffer
        if buffer and is_mapped(_buffer_type(buffer)):
            yield MappedTensor(_name(tensor).decode(), _data(tensor), _nbytes(tensor))
