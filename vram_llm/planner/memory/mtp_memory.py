"""Memory of a model's MTP head: a second context, on the devices of its blocks and of the output."""

from vram_llm.model.layer_bytes import Layer
from vram_llm.model.profile import ModelProfile
from vram_llm.model.quants import KV_TYPES, row_bytes
from vram_llm.planner.memory.compute_buffers import PIPELINE_COPIES, ComputeBound
from vram_llm.planner.memory.layer_shapes import F32_BYTES
from vram_llm.planner.mtp import head_context, hidden_bytes
from vram_llm.planner.types import Context, FlashAttention

_JOINED_ROWS = 10  # for each token: hidden state, embedding, their norms, both joined, and the inputs
_STATE_COPIES = 2  # of each state to go back to, in a compute buffer


class MtpMemory:
    """Bytes of the head's context; all 0 if `context` has no head. Cache is exact, compute a bound."""

    def __init__(self, profile: ModelProfile, context: Context, n_swa_cells: int) -> None:
        """`n_swa_cells` is 0 if no layer has a window."""
        self._profile, self._context = profile, context
        self._n_swa_cells = n_swa_cells
        self._is_on = context.n_mtp > 0
        self._bound = ComputeBound(profile, head_context(context), n_swa_cells, ()) if self._is_on else None
        self._joined = _JOINED_ROWS * profile.n_embd * F32_BYTES * min(context.n_ctx, context.n_ubatch)

    def cache_bytes(self, layer: Layer) -> int:
        """Bytes of a block's keys and values in the head's context."""
        if not self._is_on or not layer.is_draft:
            return 0
        cells = self._n_swa_cells if layer.sliding_window else self._context.n_ctx
        n_value, kv_type = layer.head_v_gqa, KV_TYPES["f16"]
        if self._context.flash_attn is FlashAttention.OFF and n_value:
            n_value = self._profile.n_embd_v_gqa_max
        return (row_bytes(kv_type, layer.head_k_gqa) + row_bytes(kv_type, n_value)) * cells

    def device_compute_bytes(self, first: int, end: int, *, has_output: bool, pipelined: bool) -> int:
        """Compute bytes of a device with layers first to end-1, with or without the output.

        A block is about as large as the layer in front of it.
        """
        n_trunk = self._profile.n_layers - self._profile.n_draft_layers
        if self._bound is None:
            return 0
        states = self._states_bytes(first, end)
        if not (has_output or end > n_trunk):
            return states
        joined = self._joined * (PIPELINE_COPIES if pipelined else 1)
        block = self._bound.device_bytes(
            n_trunk - 1, n_trunk, has_output=has_output, n_host=0, pipelined=pipelined
        )
        return states + joined + block

    def _states_bytes(self, first: int, end: int) -> int:
        """Bytes for the states to go back to, which a recurrent layer's graph computes and copies."""
        largest = max((layer.recurrent_state_bytes for layer in self._profile.layers[first:end]), default=0)
        return _STATE_COPIES * largest * self._context.n_mtp * self._context.parallel

    def host_compute_bytes(self, n_host: int, *, has_output: bool, pipelined: bool) -> int:
        """Compute bytes of the host that has `n_host` layers, and its hidden states."""
        if self._bound is None:
            return 0
        inputs = self._bound.host_bytes(0, has_output=False, pipelined=pipelined)
        inputs += self._joined * (PIPELINE_COPIES if pipelined else 1)
        own = self.device_compute_bytes(0, n_host, has_output=has_output, pipelined=False)
        return inputs + own + hidden_bytes(self._context, self._profile.n_embd)
