"""llama.cpp's own --fit, asked on virtual devices for a placement.

`common_fit_params` of common/fit.h is in libllama-common, which llama-cpp-python installs beside its package.
It loads the header on virtual devices that report some free memory, many times, as llama-server does at its
start, and answers with a number of layers, a tensor split and overrides.
"""

import ctypes
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_llm.errors import ModelRefused, NotBuilt
from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun import buffers, ggml_structs, reservation
from vram_llm.llama.dryrun.virtual_device import VirtualDevice, VirtualDeviceConfig
from vram_llm.llama.params import context_params
from vram_llm.machine.types import Device
from vram_llm.model.profile import ModelProfile
from vram_llm.planner.llama_split import device_of_layers
from vram_llm.planner.overrides import Override
from vram_llm.planner.types import HOST, Context, Placement

LEAST_CTX = 4096  # fit_params_min_ctx of common/common.h
_NAME = (
    "_Z17common_fit_paramsPKcP18llama_model_paramsP20llama_context_paramsPf"
    "P32llama_model_tensor_buft_overridePmjPK22common_fit_extra_model14ggml_log_level"
)
_ERROR = 4  # ggml_log_level


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buffer_type", b.Pointer)]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The answer of --fit."""

    placement: Placement  # on all devices, also those without layers
    n_ctx: int
    fits: bool  # whether it found a placement that fits


def start() -> None:
    """Make llama.cpp ready for dry runs in this process. Raises NotBuilt."""
    b.log_errors_only()
    b.C.llama_backend_init()
    ggml_structs.check()
    reservation.check()
    buffers.skip_clearing_host_buffers()


def fit(
    path: Path, model: ModelProfile, context: Context, devices: Sequence[Device], free_bytes: Sequence[int],
    margin_bytes: int, *, keeps_ctx: bool,
) -> Fitted:  # fmt: skip
    """The placement of --fit for the stripped header at `path`.

    Each device reports `free_bytes` and keeps `margin_bytes` of them. Without `keeps_ctx`, --fit chooses the
    length of the context. Raises NotBuilt, ModelRefused.
    """
    virtual = [_virtual_device(index, device, model) for index, device in enumerate(devices)]
    for each, n_bytes in zip(virtual, free_bytes, strict=True):
        each.memory_bytes = n_bytes
    handles = (b.Pointer * (len(virtual) + 1))(*(each.handle for each in virtual), None)
    params, cparams = b.C.llama_model_default_params(), context_params(context)
    params.devices = ctypes.cast(handles, b.Pointer)
    cparams.n_ctx = context.n_ctx if keeps_ctx else 0
    split = (ctypes.c_float * b.C.llama_max_devices())()
    overrides = (_Override * b.C.llama_max_tensor_buft_overrides())()
    margins = (ctypes.c_size_t * b.C.llama_max_devices())(*[margin_bytes] * len(virtual))
    status = _fit_params()(
        os.fsencode(path), ctypes.byref(params), ctypes.byref(cparams), split, overrides, margins, LEAST_CTX,
        None, _ERROR,
    )  # fmt: skip
    if status not in (0, 1):
        raise ModelRefused(f"--fit failed: {b.last_errors() or 'it gives no reason'}")
    places = {
        b.dev_buffer_type(each.handle): device.id for each, device in zip(virtual, devices, strict=True)
    }
    moved = []
    for each in overrides:
        if each.pattern is None:
            break
        moved.append(Override(pattern=each.pattern.decode(), device=places.get(each.buffer_type, HOST)))
    shares = list(split)[: len(virtual)]
    ids = [device.id for device in devices]
    placement = placement_on_all(
        model, ids, params.n_gpu_layers, shares if any(shares) else list(free_bytes), tuple(moved)
    )
    return Fitted(placement, cparams.n_ctx or model.context_length, status == 0)


def placement_on_all(
    model: ModelProfile, ids: Sequence[str], n_gpu_layers: int, split: Sequence[float],
    overrides: tuple[Override, ...],
) -> Placement:  # fmt: skip
    """llama.cpp's placement for these parameters; devices without layers stay in it."""
    *layers, output = device_of_layers(model.n_layers, n_gpu_layers, split)
    counts = tuple(layers.count(i) for i in range(len(ids)))
    return Placement(
        device_order=tuple(ids),
        layers_per_device=counts,
        output_device=HOST if output < 0 else ids[output],
        cpu_layers=layers.count(-1),
        tensor_split=tuple(count + (i == output) for i, count in enumerate(counts)),
        n_gpu_layers=0 if output < 0 else model.n_layers + 1 - layers.count(-1),
        overrides=overrides,
    )


def _virtual_device(index: int, device: Device, model: ModelProfile) -> VirtualDevice:
    """A virtual device whose sizes are right for weights and for graphs at the same time."""
    config = VirtualDeviceConfig(
        device.kind, device.alignment_bytes, device.row_padding, has_experts=model.n_expert > 0
    )
    made = VirtualDevice(f"{device.kind.name}{index}", config)
    made.set_query(weights=False)
    return made


def _fit_params() -> Any:
    """common_fit_params. Raises NotBuilt if the library is not here."""
    path = Path(sysconfig.get_path("platlib"), "lib", "libllama-common.so")
    try:
        function = getattr(ctypes.CDLL(str(path)), _NAME)
    except (OSError, AttributeError) as error:
        raise NotBuilt(f"llama.cpp's --fit cannot be called: {error}") from error
    function.restype = ctypes.c_int
    function.argtypes = [
        ctypes.c_char_p, b.Pointer, b.Pointer, b.Pointer, b.Pointer, b.Pointer, ctypes.c_uint32, b.Pointer,
        ctypes.c_int,
    ]  # fmt: skip
    return function
