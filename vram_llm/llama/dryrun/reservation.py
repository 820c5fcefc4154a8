"""Compute buffers of a real load, and the splits of its graphs.

With `llama_model_params.no_alloc`, llama.cpp measures graphs by ggml_backend_sched_reserve_size, which drops
the devices that a real load sets for some operations: a layer's device for its first norm, and the host for
attention without `offload_kqv`. So this module reserves the graphs as llama_context::sched_reserve does in a
real load. Buffers of virtual devices and of the host take no memory meanwhile.
"""

import ctypes
from dataclasses import dataclass, replace

from vram_llm.errors import ModelRefused, NotBuilt
from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun.buffers import without_host_memory
from vram_llm.planner.types import Context

_WITH_BUFFERS = (b.GPU_DEVICE_TYPE, b.INTEGRATED_GPU_DEVICE_TYPE, b.META_DEVICE_TYPE)
_ONE_SEQUENCE = frozenset({b"kimi-linear", b"minimax-01"})
"""Architectures whose prompt graph is larger for one sequence than for several (TAG_RESERVE_DIAG_DECAY)."""

_graph_reserve = b.declare(
    "_Z19llama_graph_reserveP13llama_contextjjj",
    b.Pointer,
    b.Pointer,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.c_uint32,
)
_scheduler = b.declare("_ZNK13llama_context9get_schedEv", b.Pointer, b.Pointer)
_n_splits = b.declare("ggml_backend_sched_get_n_splits", ctypes.c_int, b.Pointer)
_n_backends = b.declare("ggml_backend_sched_get_n_backends", ctypes.c_int, b.Pointer)
_backend = b.declare("ggml_backend_sched_get_backend", b.Pointer, b.Pointer, ctypes.c_int)
_buffer_size = b.declare("ggml_backend_sched_get_buffer_size", ctypes.c_size_t, b.Pointer, b.Pointer)
_device = b.declare("ggml_backend_get_device", b.Pointer, b.Pointer)


@dataclass(frozen=True, slots=True)
class Reservation:
    """The sizes of a context's compute buffers, and the number of splits of its graphs."""

    compute_bytes: dict[int | None, int]  # by the address of the ggml device; None: the host
    n_tokens: int  # rows of the prompt's graph
    decode_splits: int  # of the graph of a decode step, one row for each sequence
    prompt_splits: int  # of the graph of a full micro-batch

    def with_head(self, head: "Reservation") -> "Reservation":
        """The same with the compute buffers of the MTP head's context."""
        owners = self.compute_bytes.keys() | head.compute_bytes.keys()
        both = {
            owner: self.compute_bytes.get(owner, 0) + head.compute_bytes.get(owner, 0) for owner in owners
        }
        return replace(self, compute_bytes=both)


def check() -> None:
    """Raise NotBuilt if this build of llama.cpp lacks a function."""
    functions = (_graph_reserve, _scheduler, _n_splits, _n_backends, _backend, _buffer_size, _device)
    if any(function is None for function in functions):
        raise NotBuilt("this build of llama.cpp lacks functions that a dry run calls")


def reserve_graphs(model: int, ctx: int, context: Context) -> Reservation:
    """Reserve the graphs of `ctx`, which was made of `model` with `context`.

    Raises ModelRefused if llama.cpp cannot reserve a graph.
    """
    n_tokens = min(b.C.llama_n_ctx(ctx), b.C.llama_n_ubatch(ctx))
    n_sequences, n_outputs = context.parallel, min(n_tokens, context.n_outputs)
    with without_host_memory():
        prompt_splits = _reserve_graph(ctx, n_tokens, n_sequences, n_outputs)
        decode_splits = _reserve_graph(ctx, n_sequences, n_sequences, n_sequences)
        if architecture_of(model) in _ONE_SEQUENCE:
            _reserve_graph(ctx, n_tokens, 1, n_outputs)
    scheduler = _scheduler(ctx)
    compute_bytes: dict[int | None, int] = {None: 0}
    for i in range(_n_backends(scheduler)):
        backend = _backend(scheduler, i)
        device = _device(backend)
        owner = device if b.props_of(device).type in _WITH_BUFFERS else None
        compute_bytes[owner] = compute_bytes.get(owner, 0) + _buffer_size(scheduler, backend)
    return Reservation(compute_bytes, n_tokens, decode_splits, prompt_splits)


def _reserve_graph(ctx: int, n_tokens: int, n_sequences: int, n_outputs: int) -> int:
    """Reserve one graph, and return the number of its splits. Buffers that are too small for it grow."""
    if not _graph_reserve(ctx, n_tokens, n_sequences, n_outputs):
        raise ModelRefused(
            f"llama.cpp cannot reserve compute buffers: {b.last_errors() or 'no reason given'}"
        )
    return int(_n_splits(_scheduler(ctx)))


def architecture_of(model: int) -> bytes:
    """The architecture of a loaded model."""
    name = ctypes.create_string_buffer(64)
    b.C.llama_model_meta_val_str(model, b"general.architecture", name, len(name))
    return name.value
