"""Virtual devices: ggml devices that behave like a card of some kind, and have no memory.

A ggml device is a C struct of callbacks (ggml-backend-impl.h), so ctypes can make one. llama.cpp places
models on it as on a real device, as long as nothing is computed. Virtual devices live as long as the process.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun import buffers, ggml_structs
from vram_llm.llama.dryrun.backend_rules import (
    BACKEND_RULES,
    BackendRules,
    min_offloaded_batch,
)
from vram_llm.llama.dryrun.ggml_structs import GgmlTensor, c_string, callback, keep
from vram_llm.machine.types import DeviceKind
from vram_llm.model.quants import TYPES, row_bytes
from vram_llm.planner.padding import pad
from vram_llm.units import GIB

_GPU = 1  # GGML_BACKEND_DEVICE_TYPE_GPU
_MEMORY_BYTES = 1024 * GIB
_int_at = ctypes.c_int.from_address
_OP_OFFSET = GgmlTensor.op.offset


@dataclass(frozen=True, slots=True)
class VirtualDeviceConfig:
    """Facts of a device, a model and a context that decide the bytes on a virtual device.

    `has_experts` and `f16_cache` let a virtual device leave out callbacks that would have no effect.
    """

    kind: DeviceKind
    alignment_bytes: int
    row_padding: int  # quantized rows are padded to a multiple of this many elements; 0: none needs it
    has_experts: bool = True  # of the model
    f16_cache: bool = False  # whether the context stores keys and values as f16


class VirtualDevice:
    """A virtual device called `name`; give `handle` to llama.cpp."""

    def __init__(self, name: str, config: VirtualDeviceConfig) -> None:
        self.config = config
        self.memory_bytes = _MEMORY_BYTES  # all free; llama.cpp asks for it only without a tensor split
        self.allocated_bytes = 0  # by llama.cpp, over the device's life
        self._on_tensor: Callable[[int], None] | None = None
        self._rules = BACKEND_RULES[config.kind]
        self._supports_by_op = self._rules.supports
        self._min_batch = min_offloaded_batch()
        self._name = c_string(name)
        self._device = ggml_structs.GgmlDevice()
        self._buffer_type = self._make_buffer_type()
        self.set_query(weights=False)
        self._host_buffer_type = _host_buffer_type(self._device, self._rules)
        self._event = (b.Pointer * 2)(ctypes.addressof(self._device), None)
        self._backend = self._make_backend()
        self._fill_device()
        keep(self)

    @property
    def handle(self) -> int:
        """The address of the ggml_backend_device."""
        return ctypes.addressof(self._device)

    def _make_buffer_type(self) -> ggml_structs.BufferType:
        rules, alignment_bytes = self._rules, self.config.alignment_bytes
        buffer_type = ggml_structs.BufferType(device=self.handle)
        iface = buffer_type.iface
        iface.get_name = callback(b.Pointer, b.Pointer)(lambda _: self._name)
        iface.get_alignment = callback(ctypes.c_size_t, b.Pointer)(lambda _: alignment_bytes)
        iface.alloc_buffer = callback(b.Pointer, b.Pointer, ctypes.c_size_t)(self._allocate)
        if rules.max_buffer_bytes:
            iface.get_max_size = callback(ctypes.c_size_t, b.Pointer)(lambda _: rules.max_buffer_bytes)
        self._get_alloc_size = callback(ctypes.c_size_t, b.Pointer, b.Pointer)(self._queried_bytes)
        return buffer_type

    def set_query(self, *, weights: bool) -> None:
        """Choose the tensors whose sizes llama.cpp will query next.

        With `weights`, they are weights and caches; without, the tensors of a graph. If no such tensor is
        larger than ggml_nbytes, the device has no get_alloc_size, and llama.cpp does not call into Python.
        """
        config, rules = self.config, self._rules
        pads_rows = config.row_padding and (weights or not config.f16_cache)
        has_scratch = rules.scratch and not weights and (rules.scratch_for_f16 or not config.f16_cache)
        is_asked = pads_rows or has_scratch or self._on_tensor is not None
        self._buffer_type.iface.get_alloc_size = self._get_alloc_size if is_asked else None

    def watch(self, on_tensor: Callable[[int], None] | None) -> None:
        """Call `on_tensor` with the address of each tensor whose size llama.cpp queries; None: no longer."""
        self._on_tensor = on_tensor
        self.set_query(weights=True)

    def padded_bytes(self, tensor: GgmlTensor) -> int:
        """Bytes of a weight or a cache tensor in a buffer of this device, with its padding."""
        return pad(self._tensor_bytes(ctypes.addressof(tensor)), self.config.alignment_bytes)

    def _allocate(self, buffer_type: int, n_bytes: int) -> int:
        self.allocated_bytes += n_bytes
        buffer: int = ggml_structs.buffer_init(buffer_type, buffers.NO_MEMORY, None, n_bytes)
        return buffer

    def _queried_bytes(self, _: object, address: int) -> int:
        if self._on_tensor is not None:
            self._on_tensor(address)
        return self._tensor_bytes(address)

    def _tensor_bytes(self, address: int) -> int:
        """Bytes of the tensor at `address` in a buffer of this device, before alignment."""
        n_bytes: int = ggml_structs.nbytes(address)
        op = _int_at(address + _OP_OFFSET).value
        if op in self._rules.scratch:
            n_bytes += self._rules.scratch[op](GgmlTensor.from_address(address))
        row_padding = self.config.row_padding
        if row_padding and (tensor_type := TYPES[_int_at(address).value]).is_quantized:
            remainder = GgmlTensor.from_address(address).ne[0] % row_padding
            n_bytes += row_bytes(tensor_type, row_padding - remainder) if remainder else 0
        return n_bytes

    def _supports(self, _: object, address: int) -> bool:
        """Whether it can run the operation at `address`. Called tens of thousands of times a placement."""
        supports_op = self._supports_by_op.get(_int_at(address + _OP_OFFSET).value)
        return supports_op is None or supports_op(GgmlTensor.from_address(address))

    def _offloads(self, _: object, address: int) -> bool:
        """Whether it takes over the operation at `address`, whose weights are on the host."""
        assert self._rules.batch_size is not None
        return self._rules.batch_size(GgmlTensor.from_address(address)) >= self._min_batch

    def _make_backend(self) -> ggml_structs.Backend:
        backend = ggml_structs.Backend(guid=ctypes.addressof(_GUID), device=self.handle)
        iface = backend.iface
        iface.get_name = callback(b.Pointer, b.Pointer)(lambda _: self._name)
        iface.free = iface.synchronize = callback(None, b.Pointer)(lambda _: None)
        iface.graph_compute = callback(ctypes.c_int, b.Pointer, b.Pointer)(lambda *_: -1)
        iface.event_record = iface.event_wait = callback(None, b.Pointer, b.Pointer)(lambda *_: None)
        if self._rules.fuses_experts and self.config.has_experts:
            from vram_llm.llama.dryrun.fused_experts import pin_fused_experts  # here: it needs numpy

            iface.graph_optimize = callback(
                None,
                b.Pointer,
                ctypes.POINTER(ggml_structs.GgmlGraph),
                ctypes.POINTER(ggml_structs.OptimizeParams),
            )(lambda _, graph, params: pin_fused_experts(graph[0], params[0]))
        return backend

    def _fill_device(self) -> None:
        buffer_type = ctypes.addressof(self._buffer_type)
        host_buffer_type = ctypes.addressof(self._host_buffer_type) if self._host_buffer_type else None
        self._device.registry = ctypes.addressof(_registry(self._rules.registry))
        iface = self._device.iface
        iface.get_name = iface.get_description = callback(b.Pointer, b.Pointer)(lambda _: self._name)
        sizes = ctypes.POINTER(ctypes.c_size_t)
        iface.get_memory = callback(None, b.Pointer, sizes, sizes)(self._report_memory)
        iface.get_type = callback(ctypes.c_int, b.Pointer)(lambda _: _GPU)
        iface.get_props = callback(None, b.Pointer, ctypes.POINTER(b.DeviceProps))(self._report_props)
        iface.init_backend = callback(b.Pointer, b.Pointer, b.Pointer)(
            lambda *_: ctypes.addressof(self._backend)
        )
        iface.get_buffer_type = callback(b.Pointer, b.Pointer)(lambda _: buffer_type)
        if host_buffer_type is not None:
            iface.get_host_buffer_type = callback(b.Pointer, b.Pointer)(lambda _: host_buffer_type)
        iface.supports_op = callback(ctypes.c_bool, b.Pointer, b.Pointer)(self._supports)
        if self._rules.batch_size is not None:
            iface.offload_op = callback(ctypes.c_bool, b.Pointer, b.Pointer)(self._offloads)
        iface.supports_buft = callback(ctypes.c_bool, b.Pointer, b.Pointer)(
            lambda _, other: other == buffer_type
        )
        iface.event_new = callback(b.Pointer, b.Pointer)(lambda _: ctypes.addressof(self._event))
        iface.event_free = iface.event_synchronize = callback(None, b.Pointer, b.Pointer)(lambda *_: None)

    def _report_memory(self, _: object, free: Any, total: Any) -> None:
        free[0] = total[0] = self.memory_bytes

    def _report_props(self, _: object, out: Any) -> None:
        props = out[0]
        props.name = props.description = ctypes.cast(self._name, ctypes.c_char_p)
        props.memory_free = props.memory_total = self.memory_bytes
        props.type, props.device_id = _GPU, None
        props.caps = b.DeviceCaps(
            async_=True,
            host_buffer=self._host_buffer_type is not None,
            buffer_from_host_ptr=self._rules.from_host_pointer,
            events=True,
            mmap_support=True,
        )


def _host_buffer_type(device: ggml_structs.GgmlDevice, rules: BackendRules) -> ggml_structs.BufferType | None:
    """A buffer type for pinned host memory, which allocates ordinary host memory; None if it has none."""
    if not rules.host_alignment:
        return None
    buffer_type = ggml_structs.BufferType(device=ctypes.addressof(device))
    name = c_string(f"{rules.registry}_Host")
    iface = buffer_type.iface
    iface.get_name = callback(b.Pointer, b.Pointer)(lambda _: name)
    iface.get_alignment = callback(ctypes.c_size_t, b.Pointer)(lambda _: rules.host_alignment)
    iface.alloc_buffer = callback(b.Pointer, b.Pointer, ctypes.c_size_t)(
        lambda _, n_bytes: ggml_structs.buft_alloc_buffer(ggml_structs.cpu_buffer_type(), n_bytes)
    )
    iface.is_host = callback(ctypes.c_bool, b.Pointer)(lambda _: True)
    return buffer_type


_registries: dict[str, ggml_structs.Registry] = {}


def _registry(name: str) -> ggml_structs.Registry:
    """The ggml registry called `name`. It lists no devices, because llama.cpp gets each device's handle."""
    if name not in _registries:
        registry, c_name = ggml_structs.Registry(api_version=ggml_structs.API_VERSION), c_string(name)
        registry.iface.get_name = callback(b.Pointer, b.Pointer)(lambda _: c_name)
        registry.iface.get_device_count = callback(ctypes.c_size_t, b.Pointer)(lambda _: 0)
        registry.iface.get_device = callback(b.Pointer, b.Pointer, ctypes.c_size_t)(lambda *_: None)
        registry.iface.get_proc_address = callback(b.Pointer, b.Pointer, ctypes.c_char_p)(lambda *_: None)
        _registries[name] = registry
    return _registries[name]


_GUID = (ctypes.c_uint8 * 16)(*b"vram-llm virtual")
