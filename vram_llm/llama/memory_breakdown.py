"""What a llama.cpp context really holds, by device: `llama_get_memory_breakdown` (src/llama-context.cpp).

The function returns a C++ `std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data>` by value.
Its node layout is libstdc++'s (bits/stl_tree.h): colour, parent, left, right, then key and value.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from vram_llm.errors import NotBuilt
from vram_llm.llama import bindings as b

_AnyNode = TypeVar("_AnyNode", bound="BreakdownNode")


@dataclass(frozen=True, slots=True)
class BufferUse:
    """Bytes in one buffer type ("CUDA0", "CPU_Mapped"), and its ggml device (None: the host's memory)."""

    buffer_type: str
    device: int | None
    weights_bytes: int
    context_bytes: int
    compute_bytes: int


class Map(ctypes.Structure):
    """A std::map."""

    _fields_ = [
        ("compare", ctypes.c_size_t),
        ("color", ctypes.c_size_t),
        ("root", b.Pointer),
        ("leftmost", b.Pointer),
        ("rightmost", b.Pointer),
        ("count", ctypes.c_size_t),
    ]


class BreakdownNode(ctypes.Structure):
    """What every node of one begins with; those below add key and value."""

    _fields_ = [
        ("color", ctypes.c_size_t),
        ("parent", b.Pointer),
        ("left", b.Pointer),
        ("right", b.Pointer),
    ]


class _UseNode(BreakdownNode):
    _fields_ = [
        ("buffer_type", b.Pointer),
        ("model", ctypes.c_size_t),
        ("context", ctypes.c_size_t),
        ("compute", ctypes.c_size_t),
    ]


def walk(address: int | None, kind: type[_AnyNode]) -> Iterator[_AnyNode]:
    """The nodes below the one at `address`, in the order of their keys."""
    if address:
        node = kind.from_address(address)
        yield from walk(node.left, kind)
        yield node
        yield from walk(node.right, kind)


def breakdown(ctx: int) -> tuple[BufferUse, ...]:
    """Bytes per buffer type that the context `ctx` and its model hold.

    Raises NotBuilt where this build does not offer the figures (another C++ library than libstdc++).
    """
    if b.get_memory_breakdown is None:
        raise NotBuilt("this build of llama.cpp does not tell what it holds per device")
    found = Map()
    b.get_memory_breakdown(ctypes.addressof(found), ctx)
    uses = []
    for node in walk(found.root, _UseNode):
        device = b.buft_device(node.buffer_type)
        # pinned host memory belongs to a card's device, and is the host's all the same
        is_host = b.buft_is_host(node.buffer_type) or not device
        is_cpu = is_host or b.props_of(device).type == b.CPU_DEVICE_TYPE
        uses.append(
            BufferUse(
                buffer_type=b.buft_name(node.buffer_type).decode(),
                device=None if is_cpu else device,
                weights_bytes=node.model,
                context_bytes=node.context,
                compute_bytes=node.compute,
            )
        )
    if len(uses) != found.count:
        raise NotBuilt("this build of llama.cpp lays its memory report out in a way not known here")
    return tuple(uses)


def added(one: BufferUse, other: BufferUse) -> BufferUse:
    """Two buffer types of the same device as one."""
    return BufferUse(
        buffer_type=f"{one.buffer_type}+{other.buffer_type}",
        device=one.device,
        weights_bytes=one.weights_bytes + other.weights_bytes,
        context_bytes=one.context_bytes + other.context_bytes,
        compute_bytes=one.compute_bytes + other.compute_bytes,
    )
