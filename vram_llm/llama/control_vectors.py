"""Control vectors of a context: `llama_set_adapter_cvec` of llama.h."""

import ctypes
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vram_llm.errors import ModelRefused
from vram_llm.llama import bindings as b
from vram_llm.llama.bindings import C
from vram_llm.model.control_vector import check_control_vector, layer_of_direction
from vram_llm.model.header import read_local_header
from vram_llm.planner.types import Companion, CompanionKind

_Vectors = npt.NDArray[np.float32]


def apply_control_vectors(ctx: int, model: int, companions: Sequence[Companion]) -> None:
    """Add the sum of the plan's control vectors to the layers of their range, from the next decode on.

    Raises ModelFileError for a file that is for another model, and ModelRefused.
    """
    own = [companion for companion in companions if companion.kind is CompanionKind.CONTROL_VECTOR]
    if not own:
        return
    shape = C.llama_model_n_layer(model) - 1, C.llama_model_n_embd(model)
    vectors = np.zeros(shape, np.float32)
    for companion in own:
        vectors += companion.scale * _read(Path(companion.path), shape)
    set_control_vectors(ctx, vectors, own[0].layer_range)


def set_control_vectors(ctx: int, vectors: _Vectors, layer_range: tuple[int, int] | None) -> None:
    """Set `vectors`, shape (layers - 1, n_embd), that of layer 1 first, and make compute buffers again.

    `layer_range`: the first and the last layer that they are added to; None: all. Raises ModelRefused.
    """
    first, last = layer_range or (1, len(vectors) + 1)
    data = np.ascontiguousarray(vectors)
    pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if C.llama_set_adapter_cvec(ctx, pointer, data.size, data.shape[1], first, last) != 0:
        raise ModelRefused(
            f"llama.cpp takes no control vector for this model: {b.last_errors() or 'it gives no reason'}"
        )
    if b.sched_reserve is not None:  # else the next decode makes them
        b.sched_reserve(ctx)


def _read(path: Path, shape: tuple[int, int]) -> _Vectors:
    """The vectors of a file; zeros for layers without one. Several of a layer are added."""
    header = read_local_header(path)
    check_control_vector(header, shape[1], shape[0] + 1)
    vectors = np.zeros(shape, np.float32)
    for tensor in header.tensors:
        layer = layer_of_direction(tensor)
        if layer is not None and layer <= shape[0]:
            offset = header.shards[0].data_offset + tensor.offset
            vectors[layer - 1] += np.fromfile(path, "<f4", shape[1], offset=offset)
    return vectors
