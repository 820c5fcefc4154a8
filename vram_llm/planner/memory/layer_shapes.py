"""The shapes that decide a layer's operations in llama.cpp's graph, and the options of the graph.

Tensor names are those of LLM_TENSOR_NAMES (src/llama-arch.cpp of llama-cpp-python 0.3.36).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from vram_llm.model.rules import RowsCut

F32_BYTES, F16_BYTES = 4, 2
ID_BYTES = 128  # of a small input, with padding

DOWN = frozenset({"ffn_down", "ffn_down_exps", "ffn_down_shexp"})
"""The last tensor of a feed-forward network, of routed experts and of a shared expert."""

EXPERTS = ("ffn_up_exps", "ffn_gate_exps", "ffn_gate_up_exps", "ffn_down_exps")
"""Tensors of routed experts."""


class MicroBatch(NamedTuple):
    """The micro-batch for which a graph is reserved, and the options of its graph."""

    n_tokens: int
    n_sequences: int
    n_outputs: int  # rows of logits
    flash: bool  # whether attention is flash attention
    keeps_experts: bool  # whether all experts' outputs are kept until they are added up
    pipelined: bool  # whether inputs from other devices have buffers of their own


class OutputShape(NamedTuple):
    """The shapes of the operations after the layers: output and sampling."""

    n_embd: int
    n_vocab: int  # 0: no logits
    cut: RowsCut  # where the rows of the output are selected
    sampling_input_bytes: int = 0  # of the inputs of sampler chains on this device; 0: no chains


class OperationOrder(NamedTuple):
    """The order of a layer's operations, which depends on the model's code and is not in the header."""

    copies_qk: bool  # whether rotary embedding or a norm makes a second copy of queries and keys
    keys_before_values: bool  # whether keys are computed before values
    norms_in_place: bool = False  # whether the norm after a scan works in place


ORDERS = (OperationOrder(True, False), OperationOrder(True, True))
# recurrence encodes positions, so attention of hybrids may lack rotary embedding
HYBRID_ORDERS = (*ORDERS, OperationOrder(False, False))
# of the last layers of a run, if another device reads states before they end
ORDERS_BEFORE_STATES = (OperationOrder(False, False, norms_in_place=True),)


@dataclass(frozen=True)
class GraphLayer:
    """The facts that decide a layer's operations in a graph. Equal graph layers take the same memory."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]  # of its tensors, by name without the layer's number
    rotates_k: bool  # whether keys and queries are rotated before they are quantised
    rotates_v: bool
    n_embd: int
    n_head: int
    n_cells: int  # cells of one KV cache that a token attends to
    n_value_cells: int  # cells of all caches; without flash attention their V is copied transposed
    k_width: int  # elements of a cell's keys
    v_width: int  # elements of a cell's values
    state_bytes: int  # of the recurrent state of one sequence
    n_expert_used: int
    is_windowed: bool  # whether attention has a sliding window
    has_kv_cache: bool  # whether the model has a KV cache
    selects_output_rows: bool  # whether only rows of the output continue after attention
    cache_copy_bytes: int  # of keys and values that are copied to f16 for flash attention
    attention_on_host: bool  # whether the host computes attention, because the device has no kernel
    scan_on_host: bool  # whether the host computes the state-space scan, because the device has no kernel
    cache_from_host: tuple[int, ...] = ()  # bytes of keys and of values that are copied from the host
    states_from_host_bytes: int = 0  # of the states of all sequences that are copied from the host
    moved_matrices: frozenset[str] = frozenset()  # matrices on the host or on another device

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # windows of layers are looked up often
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))

    @cached_property
    def by_name(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return dict(self.shapes)

    @cached_property
    def widths(self) -> dict[str, int]:
        """Elements per token after each projection."""
        return {part: shape[1] for part, shape in self.shapes if len(shape) > 1}

    @cached_property
    def has_attention(self) -> bool:
        """Whether the layer has attention."""
        return "attn_output" in self.widths

    @cached_property
    def has_feed_forward(self) -> bool:
        """Whether the layer has a feed-forward network or experts."""
        return not DOWN.isdisjoint(self.by_name)

    @cached_property
    def has_experts(self) -> bool:
        """Whether the layer has routed experts."""
        return "ffn_down_exps" in self.by_name

    @property
    def is_recurrent_only(self) -> bool:
        """Whether the layer is recurrent and has no attention.

        llama.cpp reads its states before the previous layer ends.
        """
        return self.state_bytes > 0 and not self.has_attention

    @property
    def scan_state_bytes(self) -> int:
        """Bytes of the state of one sequence, without the state of the convolution."""
        kernel, mixed = self.by_name["ssm_conv1d"][:2]
        return self.state_bytes - (kernel - 1) * mixed * F32_BYTES

    @property
    def attention_width(self) -> int:
        """Elements of attention's result for each token."""
        if "attn_kv_a_mqa" in self.by_name and "attn_k_b" in self.by_name:
            return self.by_name["attn_k_b"][1] * self.by_name["attn_k_b"][2]
        return self.by_name["attn_output"][0]
