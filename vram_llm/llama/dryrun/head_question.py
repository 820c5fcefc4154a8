"""Whether llama.cpp can draft with a model's own MTP head: it makes the head's context and graph."""

import os
from dataclasses import replace

from vram_llm.errors import ModelRefused
from vram_llm.llama import bindings as b
from vram_llm.llama.dryrun.reservation import architecture_of, reserve_graphs
from vram_llm.llama.dryrun.wire import HeadRequest
from vram_llm.llama.mtp_head import make_context
from vram_llm.llama.params import LOAD_WITHOUT_MMAP, ModelParams, context_params
from vram_llm.planner.llama_split import placement_from_counts
from vram_llm.planner.mtp import head_context
from vram_llm.planner.types import Context

_CONTEXT = Context(
    n_ctx=256, parallel=1, kv_type_k="f16", kv_type_v="f16", n_batch=16, n_ubatch=16, n_threads=1,
    use_mmap=False, pipeline_copies=False,
)  # fmt: skip

_WITHOUT_GRAPH = "map::at"  # the graph of the layers looks for their cells, and only the head's block has any


def ask_for_head(request: HeadRequest) -> None:
    """Raise ModelRefused with llama.cpp's reason if it makes no head, or cannot take drafted tokens back.

    For some models llama.cpp ends the process instead. A model that it does not load raises nothing: its plan
    says why.
    """
    context = replace(_CONTEXT, n_mtp=request.n_mtp)
    params = ModelParams(placement_from_counts((), (), 0), context, [], kv_overrides=request.kv_overrides)
    params.struct.load_mode, params.struct.no_alloc = LOAD_WITHOUT_MMAP, True
    b.forget_lines()
    if not (model := b.C.llama_model_load_from_file(os.fsencode(request.path), params.struct)):
        return
    try:
        _make_head(model, context)
    finally:
        b.C.llama_model_free(model)


def _make_head(model: int, context: Context) -> None:
    """Make both contexts and the graphs of the head's. Raises ModelRefused."""
    architecture = architecture_of(model).decode()
    ctx = b.C.llama_init_from_model(model, context_params(context))
    if not ctx:
        raise ModelRefused(f"llama.cpp makes no context: {b.last_errors() or 'it gives no reason'}")
    is_stateful = b.C.llama_model_is_recurrent(model) or b.C.llama_model_is_hybrid(model)
    n_kept = b.C.llama_n_rs_seq(ctx)
    b.C.llama_free(ctx)
    if is_stateful and n_kept < context.n_mtp:
        raise ModelRefused(f"llama.cpp cannot take drafted tokens back from states of {architecture} models")
    try:
        head = make_context(model, context)
    except ModelRefused as error:
        if _WITHOUT_GRAPH in str(error):
            raise ModelRefused(f"llama.cpp has no graph for MTP heads of {architecture} models") from error
        raise
    reserve_graphs(model, head, head_context(context))
    b.C.llama_free(head)
