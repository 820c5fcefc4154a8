"""What one layer computes, told from the shapes of its tensors, whose names are those of LLM_TENSOR_NAMES
(src/llama-arch.cpp of llama-cpp-python 0.3.36)."""

from typing import NamedTuple

from vram_llm.model.rules import RowsCut

F32_BYTES, F16_BYTES = 4, 2

DOWN = frozenset({"ffn_down", "ffn_down_exps", "ffn_down_shexp"})
"""What a feed-forward network, routed experts and a shared one end in."""


class Batch(NamedTuple):
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


class Habit(NamedTuple):
    """What models do each in their own way, and no header tells."""

    turns: bool  # queries and keys, in rotary embedding or a norm: they are made a second time
    keys_first: bool  # before values


HABITS = (Habit(True, False), Habit(True, True))
HYBRID_HABITS = (*HABITS, Habit(False, False))  # recurrence knows the order of tokens, so attention need not


class Block(NamedTuple):
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


def block_widths(block: Block) -> dict[str, int]:
    """Elements a token has after each projection."""
    return {part: shape[1] for part, shape in block.shapes if len(shape) > 1}


def attends(block: Block) -> bool:
    """Whether there is attention in it."""
    return any(part == "attn_output" for part, shape in block.shapes if len(shape) > 1)


def feeds(block: Block) -> bool:
    """Whether there is a feed-forward network or experts in it."""
    return any(part in DOWN for part, _ in block.shapes)


def scan_state_bytes(block: Block) -> int:
    """One sequence's state without what its convolution keeps."""
    kernel, mixed = dict(block.shapes)["ssm_conv1d"][:2]
    return block.state_bytes - (kernel - 1) * mixed * F32_BYTES


def has_experts(block: Block) -> bool:
    """Whether there are routed experts in it."""
    return any(part == "ffn_down_exps" for part, _ in block.shapes)


def attention_width(block: Block) -> int:
    """Elements of a token that attention gives."""
    shapes = dict(block.shapes)
    if "attn_kv_a_mqa" in shapes and "attn_k_b" in shapes:
        return shapes["attn_k_b"][1] * shapes["attn_k_b"][2]
    return shapes["attn_output"][0]
