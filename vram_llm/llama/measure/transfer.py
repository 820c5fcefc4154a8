"""Measures transfers to a device and back, by ggml's own tensor transfers."""

import ctypes
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vram_llm.errors import ModelRefused
from vram_llm.llama import bindings as b
from vram_llm.llama.measure.calibrate_wire import TransferTime

_SIZES = (4, 16 * 2**10, 2**20, 4 * 2**20)  # the smallest for the latency, the largest for the bandwidth
_CARD_SIZES = (*_SIZES, 64 * 2**20)  # as the weights that prompts send to it
_QUICK_SIZES = (64 * 2**10, 2**20, 4 * 2**20)
_REPEATS, _MOST_S, _QUICK_S, _TOO_LONG_S = 15, 0.4, 0.1, 2.0
_I8 = 24  # GGML_TYPE_I8


class InitParams(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", b.Pointer), ("no_alloc", ctypes.c_bool)]


_init = b.declare("ggml_init", b.Pointer, InitParams)
_free = b.declare("ggml_free", None, b.Pointer)
_new_tensor = b.declare("ggml_new_tensor_1d", b.Pointer, b.Pointer, ctypes.c_int, ctypes.c_int64)
_alloc = b.declare("ggml_backend_alloc_ctx_tensors_from_buft", b.Pointer, b.Pointer, b.Pointer)
_free_buffer = b.declare("ggml_backend_buffer_free", None, b.Pointer)
_set = b.declare("ggml_backend_tensor_set", None, b.Pointer, b.Pointer, ctypes.c_size_t, ctypes.c_size_t)
_get = b.declare("ggml_backend_tensor_get", None, b.Pointer, b.Pointer, ctypes.c_size_t, ctypes.c_size_t)


def transfers(device: int, *, is_card: bool) -> tuple[TransferTime, ...]:
    """Times to fetch and to send a few bytes and a few megabytes: medians, with the sizes in turn.

    A worker does not confirm received data. So a few bytes are read after it, and their time is subtracted.
    Raises ModelRefused if the device has no room.
    """
    sizes = _CARD_SIZES if is_card else _SIZES
    with _tensor(device, max(sizes)) as (tensor, data):
        _set(tensor, data, 0, max(sizes))
        return _measured(tensor, data, sizes, _MOST_S)


def quick_transfers(device: int) -> tuple[TransferTime, ...]:
    """Like `transfers` to a worker, of a few bytes and of as many as take a tenth of a second, or 4 MiB.

    It takes half a second at most, unless the link is slower than 20 Mbit/s.
    """
    with _tensor(device, _QUICK_SIZES[-1]) as (tensor, data):
        size = _QUICK_SIZES[0]
        for larger in _QUICK_SIZES[1:]:
            began = time.perf_counter()
            _set(tensor, data, 0, size)
            _get(tensor, data, 0, _SIZES[0])
            took = time.perf_counter() - began
            if took > _QUICK_S or took * larger / size > _TOO_LONG_S:
                break
            size = larger
        return _measured(tensor, data, (_SIZES[0], size), _QUICK_S)


@contextmanager
def _tensor(device: int, n_bytes: int) -> Iterator[tuple[int, ctypes.c_void_p]]:
    """A tensor on the device, and memory of the same size. Raises ModelRefused."""
    ctx = _init(InitParams(2**16, None, True))
    tensor = _new_tensor(ctx, _I8, n_bytes)
    buffer = _alloc(ctx, b.dev_buffer_type(device))
    if not buffer:
        _free(ctx)
        raise ModelRefused("the device has no room for a few megabytes to measure its link with")
    data = ctypes.create_string_buffer(n_bytes)
    try:
        yield tensor, ctypes.cast(data, b.Pointer)
    finally:
        _free_buffer(buffer)
        _free(ctx)


def _measured(
    tensor: int, data: ctypes.c_void_p, sizes: tuple[int, ...], most_s: float
) -> tuple[TransferTime, ...]:
    fetched: dict[int, list[float]] = {size: [] for size in sizes}
    sent: dict[int, list[float]] = {size: [] for size in sizes}
    began = time.perf_counter()
    for _ in range(_REPEATS):
        for size in sizes:
            start = time.perf_counter()
            _get(tensor, data, 0, size)
            arrived = time.perf_counter()
            _set(tensor, data, 0, size)
            _get(tensor, data, 0, sizes[0])
            fetched[size].append(arrived - start)
            sent[size].append(time.perf_counter() - arrived)
        if time.perf_counter() - began > most_s:
            break
    return tuple(
        TransferTime(size, statistics.median(fetched[size] + sent[size]), statistics.median(sent[size]))
        for size in sizes
    )
