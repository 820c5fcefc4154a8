"""llama.cpp's C interface: checked once at import, with types that the bindings lack.

`C` is llama-cpp-python's own ctypes module. What that leaves out (ggml's devices and its RPC back end)
is declared here, from ggml/include/ggml-backend.h and ggml-rpc.h of the same version.
"""

import ctypes
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from vram_llm.errors import NotBuilt
from vram_llm.llama import light_package

__all__ = ["C"]  # and everything below; named because a re-export is otherwise private to type checkers

SUPPORTED_VERSION = "0.3.36"  # of llama-cpp-python: struct layouts below and mangled names belong to it

log = logging.getLogger("vram_llm.llama")

_version = light_package.prepare()
try:
    import llama_cpp.llama_cpp as C  # noqa: N812 - the C side
except (ImportError, OSError, RuntimeError) as error:  # an incomplete shared library raises any of them
    raise NotBuilt(
        f"llama-cpp-python does not load ({error}); build it with `make setup`, "
        f"or `pip install llama-cpp-python=={SUPPORTED_VERSION}`"
    ) from error

if _version != SUPPORTED_VERSION:
    raise NotBuilt(
        f"this program speaks the C interface of llama-cpp-python {SUPPORTED_VERSION}, found "
        f"{_version}; `pip install llama-cpp-python=={SUPPORTED_VERSION}`"
    )

Pointer = ctypes.c_void_p

# ggml_log_level of ggml.h
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
recent_lines: deque[str] = deque(maxlen=200)  # of llama.cpp's log, for error messages
_error_lines: deque[str] = deque(maxlen=20)
_ERROR = 4
_FUNCTION = re.compile(r"(?:\w+: +|error loading model: )*")  # prefixes of llama.cpp's log lines
_VAGUE = re.compile(
    r"(llama_model_loader: )?failed to load (model|GGUF split)\b.*|failed to initialize the context.*"
)


def _on_log(level: int, text: bytes | None, _: object) -> None:
    line = (text or b"").decode("utf-8", "replace").rstrip("\n")
    if not line.strip(". "):
        return
    if level >= 2:
        recent_lines.append(line)
    _note_error(level, line)
    # llama.cpp's "info" is for developers; a person who runs `serve` needs at most its warnings
    log.log(logging.DEBUG if level == 2 else _LEVELS.get(level, logging.DEBUG), "%s", line)


_log_callback = C.llama_log_callback(_on_log)  # kept: C points at it


def _take_log() -> None:
    C.llama_log_set(_log_callback, ctypes.c_void_p(0))


_take_log()
light_package.on_whole.append(_take_log)


def log_errors_only() -> None:
    """Keep llama.cpp's error lines for `last_errors` from now on, and drop all others."""
    global _log_callback

    def on_log(level: int, text: bytes | None, _: object) -> None:
        if level >= 3:
            line = (text or b"").decode("utf-8", "replace").rstrip("\n")
            recent_lines.append(line)
            _note_error(level, line)

    _log_callback = C.llama_log_callback(on_log)
    _take_log()


def listen_to_log(on_line: Callable[[str], None]) -> None:
    """Call `on_line` with each line of llama.cpp's log from now on, in the thread that logs; print errors."""
    global _log_callback

    def on_log(level: int, text: bytes | None, _: object) -> None:
        line = os.fsdecode(text or b"").rstrip("\n")
        on_line(line)
        if level >= 3:
            print(line, file=sys.stderr, flush=True)

    _log_callback = C.llama_log_callback(on_log)
    _take_log()


def log_callback() -> Any:
    """The log callback, for libmtmd, which needs its own registration."""
    return _log_callback


def forget_lines() -> None:
    """Drop llama.cpp's log lines so far, which belong to earlier work."""
    recent_lines.clear()
    _error_lines.clear()


def _note_error(level: int, line: str) -> None:
    if level == _ERROR or "error" in line.lower() or "failed" in line.lower():
        _error_lines.append(line)


def last_errors() -> str:
    """llama.cpp's most recent error lines as one string, or "" if there are none.

    Names of functions are left out, and so is a line that only says that there was an error if another
    one says which.
    """
    texts = [_FUNCTION.sub("", line.strip(), count=1) for line in _error_lines]
    exact = [text for text in texts if not _VAGUE.fullmatch(text)]
    return "; ".join(dict.fromkeys((exact or texts)[-3:]))


def has_amx_kernels() -> bool:
    """True if the CPU back end was built with AMX, whose kernels crash on some virtual machines."""
    return b"AMX_INT8 = 1" in C.llama_print_system_info()


class DeviceCaps(ctypes.Structure):
    """ggml_backend_dev_caps."""

    _fields_ = [
        (name, ctypes.c_bool)
        for name in ("async_", "host_buffer", "buffer_from_host_ptr", "events", "mmap_support")
    ]


class DeviceProps(ctypes.Structure):
    """ggml_backend_dev_props."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", DeviceCaps),
    ]


# enum ggml_backend_dev_type
CPU_DEVICE_TYPE = 0
GPU_DEVICE_TYPE = 1
INTEGRATED_GPU_DEVICE_TYPE = 2
META_DEVICE_TYPE = 4  # of devices that share tensors


def declare(name: str, result: Any, *arguments: Any) -> Any:
    """The C function `name`, found through libllama's own dependencies; None if this build lacks it."""
    function = getattr(C._lib, name, None)
    if function is not None:
        function.restype, function.argtypes = result, list(arguments)
    return function


dev_count = declare("ggml_backend_dev_count", ctypes.c_size_t)
dev_get = declare("ggml_backend_dev_get", Pointer, ctypes.c_size_t)
dev_by_type = declare("ggml_backend_dev_by_type", Pointer, ctypes.c_int)
dev_get_props = declare("ggml_backend_dev_get_props", None, Pointer, ctypes.POINTER(DeviceProps))
dev_memory = declare(
    "ggml_backend_dev_memory", None, Pointer, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)
)
dev_buffer_type = declare("ggml_backend_dev_buffer_type", Pointer, Pointer)
buft_name = declare("ggml_backend_buft_name", ctypes.c_char_p, Pointer)
buft_alignment = declare("ggml_backend_buft_get_alignment", ctypes.c_size_t, Pointer)
buft_is_host = declare("ggml_backend_buft_is_host", ctypes.c_bool, Pointer)
buft_device = declare("ggml_backend_buft_get_device", Pointer, Pointer)
dev_registry = declare("ggml_backend_dev_backend_reg", Pointer, Pointer)
reg_count = declare("ggml_backend_reg_count", ctypes.c_size_t)
reg_get = declare("ggml_backend_reg_get", Pointer, ctypes.c_size_t)
reg_name = declare("ggml_backend_reg_name", ctypes.c_char_p, Pointer)
reg_dev_count = declare("ggml_backend_reg_dev_count", ctypes.c_size_t, Pointer)
reg_dev_get = declare("ggml_backend_reg_dev_get", Pointer, Pointer, ctypes.c_size_t)
rpc_add_server = declare("ggml_backend_rpc_add_server", Pointer, ctypes.c_char_p)
rpc_start_server = declare(
    "ggml_backend_rpc_start_server",
    None,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.POINTER(Pointer),
)
# a C++ function: its name is the Itanium ABI's, its result a std::map of libstdc++ (see memory_breakdown.py)
get_memory_breakdown = (
    declare("_Z26llama_get_memory_breakdownPK13llama_context", Pointer, Pointer, Pointer)
    if sys.platform == "linux"
    else None
)
# llama_context::sched_reserve makes the compute buffers again if something has changed, as the next decode
# would; after adapters are set, the buffers then have their final size
sched_reserve = (
    declare("_ZN13llama_context13sched_reserveEv", None, Pointer) if sys.platform == "linux" else None
)
# hidden states in front of the output, for MTP heads (src/llama-ext.h): C++ functions as well
set_hidden_states = declare(
    "_Z26llama_set_embeddings_nextnP13llama_contextbb", None, Pointer, ctypes.c_bool, ctypes.c_bool
)
hidden_states = declare("_Z26llama_get_embeddings_nextnP13llama_context", Pointer, Pointer)
set_layer_inputs = declare(
    "_Z30llama_set_embeddings_layer_inpP13llama_contextjb", None, Pointer, ctypes.c_uint32, ctypes.c_bool
)
hidden_state = declare(
    "_Z30llama_get_embeddings_nextn_ithP13llama_contexti", Pointer, Pointer, ctypes.c_int32
)


def props_of(device: int) -> DeviceProps:
    """ggml's properties of a device handle."""
    props = DeviceProps()
    dev_get_props(device, ctypes.byref(props))
    return props


def registry_of(device: int) -> str:
    """The name of a device handle's back end: "CUDA", "Vulkan"."""
    name: bytes = reg_name(dev_registry(device))
    return name.decode()


def local_devices() -> list[int]:
    """Handles of this process's own GPUs, in ggml's order."""
    handles = [dev_get(i) for i in range(dev_count())]
    gpus = (GPU_DEVICE_TYPE, INTEGRATED_GPU_DEVICE_TYPE)
    return [handle for handle in handles if props_of(handle).type in gpus]
