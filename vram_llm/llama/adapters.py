"""LoRA adapters of a loaded model: `llama_adapter_lora_init` and `llama_set_adapters_lora` of llama.h."""

import ctypes
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vram_llm.errors import ModelRefused
from vram_llm.llama import bindings as b
from vram_llm.llama.bindings import C

_set_adapters = b.declare(
    "llama_set_adapters_lora",
    ctypes.c_int32,
    b.Pointer,
    ctypes.POINTER(b.Pointer),
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_float),
)

_metadata = b.declare(
    "llama_adapter_meta_val_str", ctypes.c_int32, b.Pointer, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t
)


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A llama_adapter_lora and its scale. Valid as long as its model."""

    handle: int
    scale: float

    def metadata(self, key: str) -> str:
        """A scalar of the adapter file's metadata as text, of 255 bytes at most; "" if it is missing."""
        buffer = ctypes.create_string_buffer(256)
        n = _metadata(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if n >= 0 else ""


def load_adapters(model: int, adapters: Iterable[tuple[str, float]]) -> list[LoadedAdapter]:
    """Load adapters, each a file and a scale, next to the tensors they change. Raises ModelRefused."""
    loaded = []
    for path, scale in adapters:
        handle = C.llama_adapter_lora_init(model, os.fsencode(path))
        if not handle:
            reason = b.last_errors() or "it gives no reason"
            raise ModelRefused(f"llama.cpp will not load the adapter {Path(path).name}: {reason}")
        loaded.append(LoadedAdapter(ctypes.cast(handle, b.Pointer).value or 0, scale))
    return loaded


def apply_adapters(ctx: int, adapters: Sequence[LoadedAdapter]) -> None:
    """Apply adapters to a context, and make its compute buffers again.

    They have room for all adapters: llama.cpp leaves those of scale 0 out, which requests may change.
    """
    if not adapters:
        return
    set_adapters(ctx, [replace(adapter, scale=adapter.scale or 1.0) for adapter in adapters])
    if b.sched_reserve is not None:  # else the next decode makes them
        b.sched_reserve(ctx)
    set_adapters(ctx, adapters)


def set_adapters(ctx: int, adapters: Sequence[LoadedAdapter]) -> None:
    """Apply only these adapters from the next decode on, which makes its compute buffers again."""
    handles = (b.Pointer * len(adapters))(*(adapter.handle for adapter in adapters))
    scales = (ctypes.c_float * len(adapters))(*(adapter.scale for adapter in adapters))
    _set_adapters(ctx, handles, len(adapters), scales)
