"""Devices that answer llama.cpp like a card of some kind, and hold no memory.

A ggml device is a C struct of callbacks (ggml-backend-impl.h), so one can be made with ctypes. llama.cpp
places models on it as on a real one, as long as nothing is computed. They live as long as the process.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun import buffers, ggml_structs
from vram_llm.llama.dryrun.backend_rules import (
    ABILITIES,
    BackendRules,
    least_offloaded_batch,
    source,
)
from vram_llm.llama.dryrun.ggml_structs import OPS, GgmlTensor
from vram_llm.machine.types import DeviceKind
from vram_llm.model.quants import TYPES, row_bytes
from vram_llm.planner.memory.backend_kernels import MAX_FUSED_EXPERTS
from vram_llm.units import GIB

_GPU = 1  # GGML_BACKEND_DEVICE_TYPE_GPU
_MEMORY_BYTES = 1024 * GIB  # free memory; llama.cpp asks for it only where a plan has no split
_number = ctypes.c_int.from_address
_OP = GgmlTensor.op.offset

_kept: list[object] = []  # objects that C points at
_T = TypeVar("_T")


def _keep(what: _T) -> _T:
    _kept.append(what)
    return what


def _callback(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Wrap a Python function for C; its address."""

    def wrap(function: Callable[..., Any]) -> Any:
        return ctypes.cast(_keep(ctypes.CFUNCTYPE(result, *arguments)(function)), b.Pointer).value

    return wrap


def _text(text: str) -> int:
    return ctypes.addressof(_keep(ctypes.create_string_buffer(text.encode())))


@dataclass(frozen=True, slots=True)
class Profile:
    """Facts that decide the bytes on a virtual device."""

    kind: DeviceKind
    alignment_bytes: int
    row_padding: int  # of quantized rows, in elements; 0: none, or no row needs it
    has_experts: bool = (
        True  # the model's, as `f16_cache` is the context's: what need not be asked is left out
    )
    f16_cache: bool = False


class VirtualDevice:
    """A device of `profile` called `name`; give `handle` to llama.cpp."""

    def __init__(self, name: str, profile: Profile) -> None:
        self.profile = profile
        self._abilities = ABILITIES[profile.kind]
        self._rules = self._abilities.supports
        self._least_batch = least_offloaded_batch()
        self._name = _text(name)
        self._device = ggml_structs.GgmlDevice()
        self._buffer_type = self._make_buffer_type()
        self.expect(weights=False)
        self._host_buffer_type = _host_buffer_type(self._device, self._abilities)
        self._event = (b.Pointer * 2)(ctypes.addressof(self._device), None)
        self._backend = self._make_backend()
        self._fill_device()
        _keep(self)

    @property
    def handle(self) -> int:
        """The address of the ggml_backend_device."""
        return ctypes.addressof(self._device)

    def _make_buffer_type(self) -> ggml_structs.BufferType:
        buffer_type, abilities, alignment = (
            ggml_structs.BufferType(),
            self._abilities,
            self.profile.alignment_bytes,
        )
        buffer_type.device = self.handle
        iface = buffer_type.iface
        iface.get_name = _callback(b.Pointer, b.Pointer)(lambda _: self._name)
        iface.get_alignment = _callback(ctypes.c_size_t, b.Pointer)(lambda _: alignment)
        iface.alloc_buffer = _callback(b.Pointer, b.Pointer, ctypes.c_size_t)(
            lambda own, size: ggml_structs.buffer_init(own, buffers.EMPTY, None, size)
        )
        if abilities.max_buffer_bytes:
            iface.get_max_size = _callback(ctypes.c_size_t, b.Pointer)(lambda _: abilities.max_buffer_bytes)
        self._sizes = _callback(ctypes.c_size_t, b.Pointer, b.Pointer)(self._allocated_bytes)
        return buffer_type

    def expect(self, *, weights: bool) -> None:
        """Set whether llama.cpp asks next for sizes of weights and caches, or of a graph's results."""
        profile, abilities = self.profile, self._abilities
        pads = profile.row_padding and (weights or not profile.f16_cache)
        adds = abilities.scratch and not weights and (abilities.scratch_for_f16 or not profile.f16_cache)
        self._buffer_type.iface.get_alloc_size = self._sizes if pads or adds else None

    def _allocated_bytes(self, _: object, address: int) -> int:
        """Bytes of the tensor at `address` in a buffer of this device, before alignment."""
        n_bytes: int = ggml_structs.nbytes(address)
        op = _number(address + _OP).value
        if op in self._abilities.scratch:
            n_bytes += self._abilities.scratch[op](GgmlTensor.from_address(address))
        padding = self.profile.row_padding
        if padding and (stored := TYPES[_number(address).value]).is_quantized:
            over = GgmlTensor.from_address(address).ne[0] % padding
            n_bytes += row_bytes(stored, padding - over) if over else 0
        return n_bytes

    def _supports(self, _: object, address: int) -> bool:
        """Whether it can run the operation at `address`. Called tens of thousands of times a placement."""
        rule = self._rules.get(_number(address + _OP).value)
        return rule is None or rule(GgmlTensor.from_address(address))

    def _offloads(self, _: object, address: int) -> bool:
        """Whether it takes over the operation at `address`, whose weights are on the host."""
        assert self._abilities.batch_size is not None
        return self._abilities.batch_size(GgmlTensor.from_address(address)) >= self._least_batch

    def _make_backend(self) -> ggml_structs.Backend:
        backend = ggml_structs.Backend(guid=ctypes.addressof(_GUID), device=self.handle)
        iface = backend.iface
        iface.get_name = _callback(b.Pointer, b.Pointer)(lambda _: self._name)
        iface.free = iface.synchronize = _callback(None, b.Pointer)(lambda _: None)
        iface.graph_compute = _callback(ctypes.c_int, b.Pointer, b.Pointer)(lambda *_: -1)
        iface.event_record = iface.event_wait = _callback(None, b.Pointer, b.Pointer)(lambda *_: None)
        if self._abilities.fuses_experts and self.profile.has_experts:
            iface.graph_optimize = _callback(
                None,
                b.Pointer,
                ctypes.POINTER(ggml_structs.GgmlGraph),
                ctypes.POINTER(ggml_structs.OptimizeParams),
            )(lambda _, graph, params: keep_experts(graph[0], params[0]))
        return backend

    def _fill_device(self) -> None:
        own = ctypes.addressof(self._buffer_type)
        host = ctypes.addressof(self._host_buffer_type) if self._host_buffer_type else None
        self._device.registry = ctypes.addressof(_registry(self._abilities.registry))
        iface = self._device.iface
        iface.get_name = iface.get_description = _callback(b.Pointer, b.Pointer)(lambda _: self._name)
        sizes = ctypes.POINTER(ctypes.c_size_t)
        iface.get_memory = _callback(None, b.Pointer, sizes, sizes)(_tell_memory)
        iface.get_type = _callback(ctypes.c_int, b.Pointer)(lambda _: _GPU)
        iface.get_props = _callback(None, b.Pointer, ctypes.POINTER(b.DeviceProps))(self._tell_props)
        iface.init_backend = _callback(b.Pointer, b.Pointer, b.Pointer)(
            lambda *_: ctypes.addressof(self._backend)
        )
        iface.get_buffer_type = _callback(b.Pointer, b.Pointer)(lambda _: own)
        if host is not None:
            iface.get_host_buffer_type = _callback(b.Pointer, b.Pointer)(lambda _: host)
        iface.supports_op = _callback(ctypes.c_bool, b.Pointer, b.Pointer)(self._supports)
        if self._abilities.batch_size is not None:
            iface.offload_op = _callback(ctypes.c_bool, b.Pointer, b.Pointer)(self._offloads)
        iface.supports_buft = _callback(ctypes.c_bool, b.Pointer, b.Pointer)(lambda _, buft: buft == own)
        iface.event_new = _callback(b.Pointer, b.Pointer)(lambda _: ctypes.addressof(self._event))
        iface.event_free = iface.event_synchronize = _callback(None, b.Pointer, b.Pointer)(lambda *_: None)

    def _tell_props(self, _: object, out: Any) -> None:
        props = out[0]
        props.name = props.description = ctypes.cast(self._name, ctypes.c_char_p)
        props.memory_free = props.memory_total = _MEMORY_BYTES
        props.type, props.device_id = _GPU, None
        props.caps = b.DeviceCaps(
            async_=True,
            host_buffer=self._host_buffer_type is not None,
            buffer_from_host_ptr=self._abilities.from_host_pointer,
            events=True,
            mmap_support=True,
        )


def keep_experts(graph: Any, params: Any) -> None:
    """Reserve for CUDA's fused sum of experts: their outputs stay until the last of them is added.

    After ggml_cuda_match_moe_weighted_reduction and ggml_backend_cuda_graph_optimize of ggml-cuda.cu: one or
    two products of all experts' outputs with a number for each, then a view of each and the sum of the views.
    """
    nodes, ops = _addresses_and_ops(graph)
    mul, add, view = OPS["MUL"], OPS["ADD"], OPS["VIEW"]
    done = -1
    for i in np.flatnonzero(ops == mul).tolist():
        first = _weighted(nodes[i]) if i > done else None
        if first is None:
            continue
        second = _weighted(nodes[i + 1]) if i + 1 < len(ops) and ops[i + 1] == mul else None
        n_products = 2 if second is not None and second[0] == nodes[i] else 1
        n_used = GgmlTensor.from_address(nodes[i]).ne[1]
        last = i + n_products + 2 * n_used - 2
        summed = ops[i + n_products : last + 1]
        n_views, n_adds = np.count_nonzero(summed == view), np.count_nonzero(summed == add)
        if last < len(ops) and (n_views, n_adds) == (n_used, n_used - 1):
            for tensor in first if second is None or n_products == 1 else (*first, second[1]):
                params.add_alloc_dep(params.user_data, tensor, nodes[last])
            done = last


def _addresses_and_ops(graph: Any) -> tuple[list[int], npt.NDArray[np.int32]]:
    """The graph's nodes and their operations, in order; read in bulk, because there are thousands.

    All nodes lie in one arena, that of llm_graph_result (src/llama-graph.cpp).
    """
    if not graph.n_nodes:
        return [], np.zeros(0, np.int32)
    at = np.ctypeslib.as_array(ctypes.cast(graph.nodes, ctypes.POINTER(ctypes.c_uint64)), (graph.n_nodes,))
    start = int(at.min())
    n_words = (int(at.max()) - start + ctypes.sizeof(GgmlTensor)) // 4
    words = np.ctypeslib.as_array(ctypes.cast(start, ctypes.POINTER(ctypes.c_int32)), (n_words,))
    return at.tolist(), words[(at - start + _OP) // 4]


def _weighted(address: int) -> tuple[int, int] | None:
    """The experts' outputs and their weights, where the product at `address` multiplies these."""
    product = GgmlTensor.from_address(address)
    if not 2 <= product.ne[1] <= MAX_FUSED_EXPERTS:
        return None
    one, other = source(product, 0), source(product, 1)
    assert one is not None
    assert other is not None
    if other.ne[0] == 1 and list(one.ne) == list(product.ne) and list(other.ne)[1:] == list(one.ne)[1:]:
        return product.src[0], product.src[1]
    if one.ne[0] == 1 and list(other.ne) == list(product.ne) and list(one.ne)[1:] == list(other.ne)[1:]:
        return product.src[1], product.src[0]
    return None


def _tell_memory(_: object, free: Any, total: Any) -> None:
    free[0] = total[0] = _MEMORY_BYTES


def _host_buffer_type(
    device: ggml_structs.GgmlDevice, abilities: BackendRules
) -> ggml_structs.BufferType | None:
    """A type for pinned host memory, which is ordinary host memory here."""
    if not abilities.host_alignment:
        return None
    buffer_type, name = (
        ggml_structs.BufferType(device=ctypes.addressof(device)),
        _text(f"{abilities.registry}_Host"),
    )
    iface = buffer_type.iface
    iface.get_name = _callback(b.Pointer, b.Pointer)(lambda _: name)
    iface.get_alignment = _callback(ctypes.c_size_t, b.Pointer)(lambda _: abilities.host_alignment)
    iface.alloc_buffer = _callback(b.Pointer, b.Pointer, ctypes.c_size_t)(
        lambda _, size: ggml_structs.buft_alloc_buffer(ggml_structs.cpu_buffer_type(), size)
    )
    iface.is_host = _callback(ctypes.c_bool, b.Pointer)(lambda _: True)
    return buffer_type


_registries: dict[str, ggml_structs.Registry] = {}


def _registry(name: str) -> ggml_structs.Registry:
    """The back end of the devices of one kind. It lists no devices: plans name each one."""
    if name not in _registries:
        registry, text = ggml_structs.Registry(api_version=ggml_structs.API_VERSION), _text(name)
        registry.iface.get_name = _callback(b.Pointer, b.Pointer)(lambda _: text)
        registry.iface.get_device_count = _callback(ctypes.c_size_t, b.Pointer)(lambda _: 0)
        registry.iface.get_device = _callback(b.Pointer, b.Pointer, ctypes.c_size_t)(lambda *_: None)
        registry.iface.get_proc_address = _callback(b.Pointer, b.Pointer, ctypes.c_char_p)(lambda *_: None)
        _registries[name] = registry
    return _registries[name]


_GUID = (ctypes.c_uint8 * 16)(*b"vram-llm virtual")
