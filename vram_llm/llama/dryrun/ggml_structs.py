"""ggml's back-end structs in ctypes: those of ggml-backend-impl.h, and ggml_tensor of ggml.h.

They belong to GGML_BACKEND_API_VERSION 2; `check` compares them with the library that is loaded.
"""

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar

from vram_llm.errors import NotBuilt
from vram_llm.llama import bindings as b

API_VERSION = 2
MAX_DIMS, MAX_SRC, MAX_NAME = 4, 10, 64
_OBJECT_BYTES = 32  # sizeof(struct ggml_object), which ggml_tensor_overhead adds to the tensor

OPS = {
    "ADD": 2, "MUL": 7, "CUMSUM": 16, "MUL_MAT": 29, "MUL_MAT_ID": 30, "VIEW": 37, "GET_ROWS": 40,
    "ROPE": 48, "ROPE_BACK": 49, "ARGSORT": 69, "TOP_K": 70, "FLASH_ATTN_EXT": 74, "SSM_CONV": 76,
    "SSM_SCAN": 77,
}  # fmt: skip
"""Operations of enum ggml_op that back ends treat differently."""


_kept: list[object] = []  # objects that C points at; the virtual devices live as long as the process
_Value = TypeVar("_Value")


def keep(value: _Value) -> _Value:
    """`value`, which is never freed, so that C may point at it."""
    _kept.append(value)
    return value


def callback(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator that makes a Python function a C function with these ctypes types; it gives the address."""

    def wrap(function: Callable[..., Any]) -> Any:
        return ctypes.cast(keep(ctypes.CFUNCTYPE(result, *arguments)(function)), b.Pointer).value

    return wrap


def c_string(text: str) -> int:
    """The address of `text` as a C string."""
    return ctypes.addressof(keep(ctypes.create_string_buffer(text.encode())))


def _function_table(name: str, functions: str) -> type[ctypes.Structure]:
    """A struct of function pointers, in the order of the C header."""
    return type(name, (ctypes.Structure,), {"_fields_": [(field, b.Pointer) for field in functions.split()]})


BufferTypeI = _function_table(
    "BufferTypeI", "get_name alloc_buffer get_alignment get_max_size get_alloc_size is_host"
)
BufferI = _function_table(
    "BufferI",
    "free_buffer get_base init_tensor memset_tensor set_tensor get_tensor set_tensor_2d get_tensor_2d"
    " cpy_tensor clear reset",
)
BackendI = _function_table(
    "BackendI",
    "get_name free set_tensor_async get_tensor_async set_tensor_2d_async get_tensor_2d_async cpy_tensor_async"
    " synchronize graph_plan_create graph_plan_free graph_plan_update graph_plan_compute graph_compute"
    " event_record event_wait graph_optimize",
)
DeviceI = _function_table(
    "DeviceI",
    "get_name get_description get_memory get_type get_props init_backend get_buffer_type get_host_buffer_type"
    " buffer_from_host_ptr supports_op supports_buft offload_op event_new event_free event_synchronize",
)
RegistryI = _function_table("RegistryI", "get_name get_device_count get_device get_proc_address")


class BufferType(ctypes.Structure):
    """ggml_backend_buffer_type."""

    _fields_ = [("iface", BufferTypeI), ("device", b.Pointer), ("context", b.Pointer)]


class Backend(ctypes.Structure):
    """ggml_backend."""

    _fields_ = [("guid", b.Pointer), ("iface", BackendI), ("device", b.Pointer), ("context", b.Pointer)]


class GgmlDevice(ctypes.Structure):
    """ggml_backend_device."""

    _fields_ = [("iface", DeviceI), ("registry", b.Pointer), ("context", b.Pointer)]


class Registry(ctypes.Structure):
    """ggml_backend_reg."""

    _fields_ = [("api_version", ctypes.c_int), ("iface", RegistryI), ("context", b.Pointer)]


class GgmlTensor(ctypes.Structure):
    """ggml_tensor."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", b.Pointer),
        ("ne", ctypes.c_int64 * MAX_DIMS),
        ("nb", ctypes.c_size_t * MAX_DIMS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", b.Pointer * MAX_SRC),
        ("view_src", b.Pointer),
        ("view_offs", ctypes.c_size_t),
        ("data", b.Pointer),
        ("name", ctypes.c_char * MAX_NAME),
        ("extra", b.Pointer),
        ("padding", ctypes.c_char * 8),
    ]


class GgmlGraph(ctypes.Structure):
    """The first members of ggml_cgraph (ggml-impl.h)."""

    _fields_ = [
        ("size", ctypes.c_int),
        ("n_nodes", ctypes.c_int),
        ("n_leafs", ctypes.c_int),
        ("nodes", ctypes.POINTER(b.Pointer)),
    ]


class OptimizeParams(ctypes.Structure):
    """ggml_backend_graph_optimize_params."""

    _fields_ = [
        ("add_alloc_dep", ctypes.CFUNCTYPE(None, b.Pointer, b.Pointer, b.Pointer)),
        ("user_data", b.Pointer),
    ]


nbytes = b.declare("ggml_nbytes", ctypes.c_size_t, b.Pointer)
op_name = b.declare("ggml_op_name", ctypes.c_char_p, ctypes.c_int)
tensor_overhead = b.declare("ggml_tensor_overhead", ctypes.c_size_t)
buffer_init = b.declare("ggml_backend_buffer_init", b.Pointer, b.Pointer, BufferI, b.Pointer, ctypes.c_size_t)
buft_alloc_buffer = b.declare("ggml_backend_buft_alloc_buffer", b.Pointer, b.Pointer, ctypes.c_size_t)
cpu_buffer_type = b.declare("ggml_backend_cpu_buffer_type", b.Pointer)
_dev_registry = b.declare("ggml_backend_dev_backend_reg", b.Pointer, b.Pointer)


def check() -> None:
    """Raise NotBuilt if the library's structs or operations differ from those of this module.

    It checks functions, the interface's version, one buffer type, the size of a tensor and operation numbers.
    """
    functions = (nbytes, op_name, tensor_overhead, buffer_init, buft_alloc_buffer, cpu_buffer_type)
    if any(function is None for function in (*functions, _dev_registry, b.get_memory_breakdown)):
        raise NotBuilt("this build of llama.cpp lacks functions that a dry run calls")
    cpu = b.dev_by_type(b.CPU_DEVICE_TYPE)
    device = GgmlDevice.from_address(cpu)
    version = Registry.from_address(device.registry).api_version if device.registry else None
    if device.registry != _dev_registry(cpu) or version != API_VERSION:
        raise NotBuilt(
            f"llama.cpp's back-end interface is version {version} and a dry run needs {API_VERSION}"
        )
    buffer_type = BufferType.from_address(cpu_buffer_type())
    if buffer_type.device != b.buft_device(cpu_buffer_type()):
        raise NotBuilt("this build of llama.cpp has buffer types of an unknown layout")
    if tensor_overhead() - _OBJECT_BYTES != ctypes.sizeof(GgmlTensor):
        raise NotBuilt(f"this build of llama.cpp has tensors of {tensor_overhead() - _OBJECT_BYTES} bytes")
    renumbered = [name for name, number in OPS.items() if op_name(number) != name.encode()]
    if renumbered:
        raise NotBuilt(f"this build of llama.cpp has other numbers of operations ({renumbered[0]})")
