"""ggml buffers without memory: of virtual devices, and of the host while graphs are reserved."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun.ggml_structs import BufferI, BufferType, buffer_init, callback, cpu_buffer_type

_ADDRESS = 0x1000  # of every buffer; nothing is ever written there
_ALLOCATE = ctypes.CFUNCTYPE(b.Pointer, b.Pointer, ctypes.c_size_t)
_host_buffers_have_memory = [True]  # False within `without_host_memory`

_copy = callback(None, b.Pointer, b.Pointer, b.Pointer, ctypes.c_size_t, ctypes.c_size_t)(lambda *_: None)
_clear = callback(None, b.Pointer, ctypes.c_uint8)(lambda *_: None)
NO_MEMORY = BufferI(
    free_buffer=callback(None, b.Pointer)(lambda _: None),
    get_base=callback(b.Pointer, b.Pointer)(lambda _: _ADDRESS),
    memset_tensor=callback(None, b.Pointer, b.Pointer, ctypes.c_uint8, ctypes.c_size_t, ctypes.c_size_t)(
        lambda *_: None
    ),
    set_tensor=_copy,
    get_tensor=_copy,
    clear=_clear,
)
"""The functions of a buffer without memory."""


def skip_clearing_host_buffers() -> None:
    """Make ggml allocate host buffers without clearing them: untouched pages take no memory and no time."""
    host_type = BufferType.from_address(cpu_buffer_type())
    allocate = _ALLOCATE(host_type.iface.alloc_buffer)

    def allocate_without_clearing(buffer_type: int, n_bytes: int) -> int | None:
        if not _host_buffers_have_memory[0]:
            empty: int = buffer_init(buffer_type, NO_MEMORY, None, n_bytes)
            return empty
        buffer: int | None = allocate(buffer_type, n_bytes)
        if buffer:
            BufferI.from_address(buffer).clear = _clear
        return buffer

    host_type.iface.alloc_buffer = callback(b.Pointer, b.Pointer, ctypes.c_size_t)(allocate_without_clearing)


@contextmanager
def without_host_memory() -> Iterator[None]:
    """Make ggml allocate host buffers without memory, so that large ones take no address space.

    It has an effect after `skip_clearing_host_buffers` alone.
    """
    _host_buffers_have_memory[0] = False
    try:
        yield
    finally:
        _host_buffers_have_memory[0] = True
