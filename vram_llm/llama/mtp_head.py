"""A model's own MTP head (multi-token prediction): a block that drafts from tokens and hidden states.

It is a second context, of the type LLAMA_CONTEXT_TYPE_MTP, on the model that was loaded with `load_mtp`. The
cell of a token at position p belongs to the token and the hidden state of position p - 1
(common_speculative_impl_draft_mtp of common/speculative.cpp).
"""

import ctypes
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vram_llm.errors import ModelRefused, NotBuilt
from vram_llm.llama import bindings as b
from vram_llm.llama import memory_breakdown
from vram_llm.llama.batch import TokenBatch
from vram_llm.llama.bindings import C
from vram_llm.llama.cells import Cells
from vram_llm.llama.params import context_params
from vram_llm.planner.estimates import MemoryUse
from vram_llm.planner.mtp import head_context
from vram_llm.planner.types import Context

HiddenStates = npt.NDArray[np.float32]
_logits_address = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
    ("llama_get_logits_ith", C._lib)
)


class MtpHead:
    """The context of a loaded model's MTP head. Call `close` before the model is freed.

    Hidden states have `n_embd` numbers. `can_share` is true if sequences can share cells.
    """

    def __init__(self, model: int, context: Context) -> None:
        """Make the head's context for `model`, whose own is `context`. Raises ModelRefused, NotBuilt."""
        own = head_context(context)
        self.ctx = make_context(model, context)
        self.n_embd = int(C.llama_model_n_embd_out(model))
        self.n_vocab = int(C.llama_vocab_n_tokens(C.llama_model_get_vocab(model)))
        self.can_share = own.kv_unified and C.llama_model_n_swa(model) == 0
        self.most_drafted = context.n_mtp
        self.n_sequences = own.parallel
        self.cells = Cells(self.ctx, model)
        self.batch = TokenBatch(own.n_batch, self.n_embd)
        self.note_batch: Callable[[int], None] = lambda _: None  # called with the rows of each batch

    def decode(self) -> int:
        """Run the batch and wait for it; the results are those of LoadedModel.decode."""
        self.note_batch(self.batch.n_rows)
        status = int(C.llama_decode(self.ctx, self.batch.struct))
        C.llama_synchronize(self.ctx)
        return status

    def likeliest(self, row: int, n_vocab: int) -> int:
        """The most likely of the first `n_vocab` tokens after batch row `row`, which has logits."""
        floats = (ctypes.c_float * self.n_vocab).from_address(_logits_address(self.ctx, row))
        return int(np.ctypeslib.as_array(floats)[:n_vocab].argmax())

    def hidden(self, row: int) -> HiddenStates:
        """The head's hidden state of a row with logits: a view, shape (n_embd,), until the next decode."""
        floats = (ctypes.c_float * self.n_embd).from_address(b.hidden_state(self.ctx, row))
        return np.ctypeslib.as_array(floats)

    def memory_use(self) -> dict[int | None, MemoryUse]:
        """Bytes of cache and compute by ggml device; None: the host. The model has the weights."""
        return context_use(self.ctx)

    def close(self) -> None:
        """Free the context."""
        C.llama_free(self.ctx)


def make_context(model: int, context: Context) -> int:
    """The head's llama_context for a model whose own is `context`. Raises ModelRefused, NotBuilt."""
    params = context_params(head_context(context))
    params.ctx_type = C.LLAMA_CONTEXT_TYPE_MTP
    ctx = C.llama_init_from_model(model, params)
    if not ctx:
        reason = b.last_errors() or "it gives no reason"
        raise ModelRefused(f"llama.cpp makes no context for the model's MTP head: {reason}")
    give_hidden_states(int(ctx), of_all_rows=False)
    return int(ctx)


def give_hidden_states(ctx: int, *, of_all_rows: bool) -> None:
    """Let a context give hidden states, of all rows or of those with logits. Raises NotBuilt.

    Compute buffers are made again at once, for graphs that keep all rows are larger.
    """
    if None in (b.set_hidden_states, b.hidden_states, b.hidden_state):
        raise NotBuilt(
            "this build of llama.cpp gives no hidden states, which MTP heads need; leave --draft out"
        )
    b.set_hidden_states(ctx, True, not of_all_rows)
    if b.set_layer_inputs is not None and b.sched_reserve is not None:
        b.set_layer_inputs(ctx, 0, False)  # changes nothing, and lets llama.cpp reserve again
        b.sched_reserve(ctx)


def keep_hidden_states(ctx: int, *, keep: bool) -> None:
    """Let a context that gave hidden states of all rows go on, or stop: then it computes and copies none.

    Compute buffers stay: they were made for graphs that keep all rows. Without, the last layer and the output
    take only the rows with logits (`embeddings_nextn_masked`, src/models/qwen35.cpp).
    """
    assert b.set_hidden_states is not None
    b.set_hidden_states(ctx, keep, not keep)


def hidden_states(ctx: int, n_rows: int, n_embd: int) -> HiddenStates:
    """The hidden states of the first `n_rows` rows of the last batch: a view, until the next decode."""
    floats = (ctypes.c_float * (n_rows * n_embd)).from_address(b.hidden_states(ctx))
    return np.ctypeslib.as_array(floats).reshape(n_rows, n_embd)


def context_use(ctx: int) -> dict[int | None, MemoryUse]:
    """Bytes of a context's cache and compute by ggml device, without the model's weights."""
    uses = memory_breakdown.memory_use(ctx)
    return {owner: MemoryUse(0, use.context_bytes, use.compute_bytes) for owner, use in uses.items()}
