"""Memory of a llama.cpp context by device: `llama_get_memory_breakdown` (src/llama-context.cpp).

The function returns a C++ `std::map<ggml_backend_buffer_type_t, llama_memory_breakdown_data>` by value.
Its node layout is libstdc++'s (bits/stl_tree.h): colour, parent, left, right, then key and value.

For a mapped file llama.cpp reports the span from the first to the last tensor of each buffer, with all that
is between them (llama_model_loader::get_mapping_range). Here the tensors themselves count, padded as in a
buffer that is allocated.
"""

import ctypes
from collections.abc import Iterator
from typing import TypeVar

from vram_llm.errors import NotBuilt
from vram_llm.llama import bindings as b
from vram_llm.llama.mapped_tensors import is_mapped, mapped_tensors
from vram_llm.planner.estimates import MemoryUse

_AnyNode = TypeVar("_AnyNode", bound="BreakdownNode")


class StdMap(ctypes.Structure):
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
    """The head of every node of a Map; subclasses add key and value."""

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


_get_model = b.declare("llama_get_model", b.Pointer, b.Pointer)


def walk(address: int | None, kind: type[_AnyNode]) -> Iterator[_AnyNode]:
    """The nodes below the one at `address`, in the order of their keys."""
    if address:
        node = kind.from_address(address)
        yield from walk(node.left, kind)
        yield node
        yield from walk(node.right, kind)


def memory_use(ctx: int) -> dict[int | None, MemoryUse]:
    """Memory of the context `ctx` and its model on each ggml device; None: in the host's memory.

    Raises NotBuilt if this build does not report memory (its C++ library is not libstdc++).
    """
    if b.get_memory_breakdown is None:
        raise NotBuilt("this build of llama.cpp does not tell what it holds per device")
    found = StdMap()
    b.get_memory_breakdown(ctypes.addressof(found), ctx)
    uses: dict[int | None, MemoryUse] = {}
    nodes = list(walk(found.root, _UseNode))
    for node in nodes:
        device = b.buft_device(node.buffer_type)
        # pinned host memory has a card's device, but is the host's
        is_host = b.buft_is_host(node.buffer_type) or not device
        is_cpu = is_host or b.props_of(device).type == b.CPU_DEVICE_TYPE
        owner = None if is_cpu else device
        weights = _mapped_bytes(ctx) if is_mapped(node.buffer_type) else node.model
        use = MemoryUse(weights, node.context, node.compute)
        uses[owner] = uses.get(owner, MemoryUse()) + use
    if len(nodes) != found.count:
        raise NotBuilt("this build of llama.cpp lays its memory report out in a way not known here")
    return uses


def _mapped_bytes(ctx: int) -> int:
    """Bytes of the model's tensors that are in a mapped file, each padded."""
    alignment = b.buft_alignment(b.dev_buffer_type(b.dev_by_type(b.CPU_DEVICE_TYPE)))
    return sum(-(-tensor.n_bytes // alignment) * alignment for tensor in mapped_tensors(_get_model(ctx)))
