"""The part of a model that a tensor belongs to, by its name.

Names are those of LLM_TENSOR_NAMES, places those of LLM_TENSOR_INFOS (src/llama-arch.cpp).
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from vram_llm.model import rules
from vram_llm.model.gguf import TensorInfo
from vram_llm.model.quants import GgmlType


class Role(StrEnum):
    """The purpose of a tensor. A layer's norms, biases and routers have the role of their part."""

    ATTENTION = "attention"
    FFN = "ffn"  # dense ones, routers and shared experts: read for every token
    EXPERT = "expert"  # routed: read for the tokens sent to them
    RECURRENT = "recurrent"
    TOKEN_EMBD = "token_embd"
    OUTPUT = "output"  # output.weight
    OTHER = "other"


class LayerPart(StrEnum):
    """Weights of a layer that may be on another device than the layer's other weights."""

    EXPERTS = "experts"  # all routed experts
    EXPERTS_UP = "experts_up"  # their first matrices: up and gate
    EXPERTS_DOWN = "experts_down"  # their last matrix
    FFN = "ffn"  # the matrices of a dense feed-forward network
    FFN_DOWN = "ffn_down"  # one of these matrices, often stored with the most bits


class Place(StrEnum):
    """Where llama.cpp puts a tensor that has no layer number."""

    INPUT = "input"  # on the CPU
    OUTPUT = "output"  # on the output's device
    FIRST_LAYER = "first_layer"  # on the device of layer 0
    SHARED = "shared"  # asked for by every layer: one copy on each device that holds a layer


@dataclass(frozen=True, slots=True)
class Tensor:
    """A weight. `shape` is in ggml's order, the row first; `n_bytes` is its size in the file, unpadded."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    n_bytes: int
    role: Role


_LAYER = re.compile(r"(?:(?:enc|dec)\.)?blk\.(\d+)\.(.+)")
_EXPERT = re.compile(r"ffn_(?:gate|up|down|gate_up)(?:_exps|_chexps|\.\d+)(?:\.|$)")
_RECURRENT = re.compile(r"ssm_|time_mix_|shortconv\.")
_FFN = re.compile(r"ffn|channel_mix_|post_ffw_norm|pre_ffw_norm|exp_probs_b")
_ATTENTION = re.compile(r"attn_|post_attention_norm|cross_attn_|indexer|vis_attn")
_ATTENTION_WEIGHT = re.compile(r"(?:cross_)?attn_(?!.*norm)")
PART_PATTERNS = {
    LayerPart.EXPERTS: r"ffn_(?:up|down|gate|gate_up)_(?:ch)?exps\.",
    LayerPart.EXPERTS_UP: r"ffn_(?:up|gate|gate_up)_(?:ch)?exps\.",
    LayerPart.EXPERTS_DOWN: r"ffn_down_(?:ch)?exps\.",
    LayerPart.FFN: r"ffn_(?:up|down|gate)\.",
    LayerPart.FFN_DOWN: r"ffn_down\.",
}
"""Regular expressions for the start of a tensor's name after "blk.N.": `LLM_FFN_EXPS_REGEX` and
`LLM_FFN_DENSE_REGEX` of common/common.h, in the syntax that ECMAScript and Python share."""
_PARTS = {part: re.compile(pattern) for part, pattern in PART_PATTERNS.items()}
_STARTS = {
    Place.INPUT: ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.", "masked_embd_"),
    Place.FIRST_LAYER: (
        "token_embd_norm.",
        "per_layer_model_proj.",
        "per_layer_proj_norm.",
        "hrm.",
        "conv1d.",
    ),
    Place.SHARED: ("rope_freqs.", "rope_factors_"),
}


@lru_cache(maxsize=2**16)
def layer_of(name: str) -> tuple[int, str] | None:
    """The layer number in a tensor's name and the rest of the name; None without a layer number."""
    match = _LAYER.fullmatch(name)
    return (int(match[1][:9]), match[2]) if match else None


def place_of(arch: str, name: str) -> Place:
    """The place of a tensor without a layer number."""
    if arch in rules.OUTPUT_NORM_IS_EMBD_NORM and name.startswith("token_embd_norm."):
        return Place.OUTPUT
    return next((place for place, starts in _STARTS.items() if name.startswith(starts)), Place.OUTPUT)


def role_in_layer(part: str, mixer: Role) -> Role:
    """The role of a layer's tensor called `part` ("attn_q.weight").

    `mixer` is the role of the layer's attn_ tensors. A Mamba or linear-attention layer uses these names for
    its norm and projections; a layer with only a feed-forward network uses one for its norm.
    """
    if _EXPERT.match(part):
        return Role.EXPERT
    if _RECURRENT.match(part):
        return Role.RECURRENT
    if _FFN.match(part):
        return Role.FFN
    return mixer if _ATTENTION.match(part) else Role.OTHER


def is_in_part(part: LayerPart, name: str) -> bool:
    """Whether a tensor called `name` ("blk.3.ffn_up_exps.weight") belongs to a layer's `part`."""
    place = layer_of(name)
    return place is not None and _PARTS[part].match(place[1]) is not None


def is_recurrent(part: str) -> bool:
    """True for a tensor that only recurrent layers have."""
    return _RECURRENT.match(part) is not None


def is_attention_weight(part: str) -> bool:
    """True for a projection of attention, not for its norms."""
    return _ATTENTION_WEIGHT.match(part) is not None


def role_outside(name: str) -> Role:
    """The role of a tensor without a layer number."""
    if name == "token_embd.weight":
        return Role.TOKEN_EMBD
    return Role.OUTPUT if name == "output.weight" else Role.OTHER


def with_role(info: TensorInfo, role: Role) -> Tensor:
    """The tensor `info` of a header, with its role."""
    return Tensor(info.name, info.shape, info.type, info.n_bytes, role)
