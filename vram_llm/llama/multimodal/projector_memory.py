"""Memory of a multimodal projector: `mtmd_get_memory_usage` (tools/mtmd/mtmd.cpp) loads no weights.

The function returns a C++ `std::map<ggml_backend_dev_t, size_t>` by value; see memory_breakdown.py for its
layout.
"""

import ctypes
import os

import llama_cpp.mtmd_cpp as M  # noqa: N812 - the C side

from vram_llm.errors import ModelRefused, NotBuilt
from vram_llm.llama import bindings as b
from vram_llm.llama.memory_breakdown import BreakdownNode, StdMap, walk
from vram_llm.llama.params import FLASH_ATTENTION
from vram_llm.planner.types import FlashAttention

_memory_usage = getattr(M._libmtmd, "_Z21mtmd_get_memory_usagePKc19mtmd_context_params", None)
if _memory_usage is not None:
    _memory_usage.restype = b.Pointer
    _memory_usage.argtypes = [b.Pointer, ctypes.c_char_p, M.mtmd_context_params]


class _DeviceNode(BreakdownNode):
    """A device and its bytes."""

    _fields_ = [  # noqa: RUF012 - ctypes reads it
        ("device", b.Pointer),
        ("size", ctypes.c_size_t),
    ]


def memory_use(path: str, device: int | None, flash_attn: FlashAttention) -> dict[int, int]:
    """Bytes of weights, unpadded, and of compute for one warm-up image, by ggml device handle.

    `device` is its device; None is the processor. Raises ModelRefused, and NotBuilt if this build does
    not tell.
    """
    if _memory_usage is None:
        raise NotBuilt("this build of libmtmd does not tell what a projector holds")
    params = M.mtmd_context_params_default()
    params.use_gpu, params.device = device is not None, device
    params.flash_attn_type = FLASH_ATTENTION[flash_attn]
    params.warmup = True
    found = StdMap()
    _memory_usage(ctypes.addressof(found), os.fsencode(path), params)
    sizes = {node.device: node.size for node in walk(found.root, _DeviceNode)}
    if not sizes:
        raise ModelRefused("llama.cpp cannot load the multimodal projector")
    return sizes
