"""Buffers that take no memory: those of virtual devices, and the host's while graphs are reserved."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun.ggml_structs import BufferI, BufferType, buffer_init, cpu_buffer_type

_ADDRESS = 0x1000  # of every buffer; nothing is ever written there
_kept: list[Any] = []  # objects that C points at
_ALLOCATE = ctypes.CFUNCTYPE(b.Pointer, b.Pointer, ctypes.c_size_t)
_takes_memory = [True]  # whether the host's buffers do


def _address(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Wrap a Python function for C; its address."""

    def wrap(function: Callable[..., Any]) -> Any:
        _kept.append(ctypes.CFUNCTYPE(result, *arguments)(function))
        return ctypes.cast(_kept[-1], b.Pointer).value

    return wrap


_copy = _address(None, b.Pointer, b.Pointer, b.Pointer, ctypes.c_size_t, ctypes.c_size_t)(lambda *_: None)
_clear = _address(None, b.Pointer, ctypes.c_uint8)(lambda *_: None)
EMPTY = BufferI(
    free_buffer=_address(None, b.Pointer)(lambda _: None),
    get_base=_address(b.Pointer, b.Pointer)(lambda _: _ADDRESS),
    memset_tensor=_address(None, b.Pointer, b.Pointer, ctypes.c_uint8, ctypes.c_size_t, ctypes.c_size_t)(
        lambda *_: None
    ),
    set_tensor=_copy,
    get_tensor=_copy,
    clear=_clear,
)
"""The methods of a buffer without memory."""


def leave_host_memory() -> None:
    """Stop clearing buffers on the host: pages that are never touched take no memory and no time."""
    buffer_type = BufferType.from_address(cpu_buffer_type())
    allocate = _ALLOCATE(buffer_type.iface.alloc_buffer)

    def allocate_only(own: int, n_bytes: int) -> int | None:
        if not _takes_memory[0]:
            empty: int = buffer_init(own, EMPTY, None, n_bytes)
            return empty
        buffer: int | None = allocate(own, n_bytes)
        if buffer:
            BufferI.from_address(buffer).clear = _clear
        return buffer

    buffer_type.iface.alloc_buffer = _address(b.Pointer, b.Pointer, ctypes.c_size_t)(allocate_only)


@contextmanager
def no_host_memory() -> Iterator[None]:
    """Make no buffer of the host, however large: after `leave_host_memory`, they take no address space."""
    _takes_memory[0] = False
    try:
        yield
    finally:
        _takes_memory[0] = True
