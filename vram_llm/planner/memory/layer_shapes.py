"""What one layer computes, told from the shapes of its tensors, whose names are those of LLM_TENSOR_NAMES
(src/llama-arch.cpp of llama-cpp-python 0.3.36)."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from vram_llm.model.rules import RowsCut

F32_BYTES, F16_BYTES = 4, 2
ID_BYTES = 128  # of a small input, padded

DOWN = frozenset({"ffn_down", "ffn_down_exps", "ffn_down_shexp"})
"""What a feed-forward network, routed experts and a shared one end in."""


class MicroBatch(NamedTuple):
    """What a graph is reserved for, and by which back end it is run."""

    n_tokens: int
    n_sequences: int
    n_outputs: int
    flash: bool
    keeps_experts: bool  # their outputs stay until they are added up
    pipelined: bool  # what comes from elsewhere has a place of its own


class End(NamedTuple):
    """What comes after the layers."""

    n_embd: int
    n_vocab: int  # 0: no logits
    cut: RowsCut
    sampling_input_bytes: int = 0  # of chains that sample here; 0: there are none


class Habit(NamedTuple):
    """What models do each in their own way, and no header tells."""

    turns: bool  # queries and keys, in rotary embedding or a norm: they are made a second time
    keys_first: bool  # before values
    norms_in_place: bool = False  # what a scan gives


HABITS = (Habit(True, False), Habit(True, True))
HYBRID_HABITS = (*HABITS, Habit(False, False))  # recurrence knows the order of tokens: attention need not
LAST_HABITS = (Habit(False, False, norms_in_place=True),)


@dataclass(frozen=True)
class Block:
    """What one layer computes; equal for layers that take the same. Shapes go by names without number."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    turns_k: bool  # keys and queries are rotated before they are quantised
    turns_v: bool
    n_embd: int
    n_head: int
    n_cells: int  # it attends to, of one cache
    n_value_cells: int  # of all caches, whose V is copied transposed without flash attention
    k_width: int  # elements a cell
    v_width: int
    state_bytes: int  # of one sequence
    n_expert_used: int
    is_windowed: bool
    keeps_past: bool  # there is a cache
    cuts_rows: bool  # goes on with the rows of the output alone
    cache_copy_bytes: int  # of keys and values as f16, made for flash attention
    attends_elsewhere: bool  # on the host, for want of a kernel
    scans_elsewhere: bool

    @cached_property
    def by_name(self) -> dict[str, tuple[int, ...]]:
        """Shapes."""
        return dict(self.shapes)

    @cached_property
    def widths(self) -> dict[str, int]:
        """Elements a token has after each projection."""
        return {part: shape[1] for part, shape in self.shapes if len(shape) > 1}

    @cached_property
    def attends(self) -> bool:
        """Whether there is attention in it."""
        return "attn_output" in self.widths

    @cached_property
    def feeds(self) -> bool:
        """Whether there is a feed-forward network or experts in it."""
        return not DOWN.isdisjoint(self.by_name)

    @cached_property
    def has_experts(self) -> bool:
        """Whether there are routed experts in it."""
        return "ffn_down_exps" in self.by_name

    @property
    def scan_state_bytes(self) -> int:
        """One sequence's state without what its convolution keeps."""
        kernel, mixed = self.by_name["ssm_conv1d"][:2]
        return self.state_bytes - (kernel - 1) * mixed * F32_BYTES

    @property
    def attention_width(self) -> int:
        """Elements of a token that attention gives."""
        if "attn_kv_a_mqa" in self.by_name and "attn_k_b" in self.by_name:
            return self.by_name["attn_k_b"][1] * self.by_name["attn_k_b"][2]
        return self.by_name["attn_output"][0]
