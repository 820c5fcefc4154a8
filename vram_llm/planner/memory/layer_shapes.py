"""The kind and the sizes of a layer's operations, inferred from the shapes of its tensors.

Tensor names are those of LLM_TENSOR_NAMES (src/llama-arch.cpp of llama-cpp-python 0.3.36).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from vram_llm.model.rules import RowsCut

F32_BYTES, F16_BYTES = 4, 2
ID_BYTES = 128  # size of a small input, padded

DOWN = frozenset({"ffn_down", "ffn_down_exps", "ffn_down_shexp"})
"""Last tensor of a feed-forward network, of routed experts and of a shared expert."""

EXPERTS = ("ffn_up_exps", "ffn_gate_exps", "ffn_gate_up_exps", "ffn_down_exps")
"""Tensors of routed experts."""


class MicroBatch(NamedTuple):
    """The micro-batch that a graph is reserved for, and how its device runs it."""

    n_tokens: int
    n_sequences: int
    n_outputs: int
    flash: bool
    keeps_experts: bool  # the experts' outputs stay until they are added up
    pipelined: bool  # inputs from other devices have buffers of their own


class End(NamedTuple):
    """The operations after the layers: output and sampling."""

    n_embd: int
    n_vocab: int  # 0: no logits
    cut: RowsCut
    sampling_input_bytes: int = 0  # inputs of the sampler chains on this device; 0: no chains


class Habit(NamedTuple):
    """Order of operations, which differs between models and is not in the header."""

    turns: bool  # rotary embedding or a norm makes a second copy of queries and keys
    keys_first: bool  # keys are computed before values
    norms_in_place: bool = False  # the norm after a scan works in place


HABITS = (Habit(True, False), Habit(True, True))
HYBRID_HABITS = (*HABITS, Habit(False, False))  # recurrence encodes positions, so attention may lack rotary
LAST_HABITS = (Habit(False, False, norms_in_place=True),)


@dataclass(frozen=True)
class Block:
    """One layer's operations. Layers with equal blocks take the same memory.

    Shapes are keyed by tensor name without the layer number.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    turns_k: bool  # keys and queries are rotated before they are quantised
    turns_v: bool
    n_embd: int
    n_head: int
    n_cells: int  # cells of one cache that it attends to
    n_value_cells: int  # cells of all caches; without flash attention their V is copied transposed
    k_width: int  # elements per cell
    v_width: int
    state_bytes: int  # recurrent state of one sequence
    n_expert_used: int
    is_windowed: bool
    keeps_past: bool  # the model has a KV cache
    cuts_rows: bool  # keeps only the rows of the output
    cache_copy_bytes: int  # keys and values copied to f16 for flash attention
    attends_elsewhere: bool  # the device has no kernel, so the host computes attention
    scans_elsewhere: bool  # the same for a state-space scan
    cache_from_host: tuple[int, ...] = ()  # bytes of keys and of values, if they are copied from the host
    states_from_host_bytes: int = 0  # the same for the states of all sequences
    parts_elsewhere: frozenset[str] = frozenset()  # matrices that the host or another device has

    @cached_property
    def by_name(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor."""
        return dict(self.shapes)

    @cached_property
    def widths(self) -> dict[str, int]:
        """Elements per token after each projection."""
        return {part: shape[1] for part, shape in self.shapes if len(shape) > 1}

    @cached_property
    def attends(self) -> bool:
        """Whether the layer has attention."""
        return "attn_output" in self.widths

    @cached_property
    def feeds(self) -> bool:
        """Whether the layer has a feed-forward network or experts."""
        return not DOWN.isdisjoint(self.by_name)

    @cached_property
    def has_experts(self) -> bool:
        """Whether the layer has routed experts."""
        return "ffn_down_exps" in self.by_name

    @property
    def scan_state_bytes(self) -> int:
        """State of one sequence without the state of the convolution."""
        kernel, mixed = self.by_name["ssm_conv1d"][:2]
        return self.state_bytes - (kernel - 1) * mixed * F32_BYTES

    @property
    def attention_width(self) -> int:
        """Elements per token of attention's result."""
        if "attn_kv_a_mqa" in self.by_name and "attn_k_b" in self.by_name:
            return self.by_name["attn_k_b"][1] * self.by_name["attn_k_b"][2]
        return self.by_name["attn_output"][0]
