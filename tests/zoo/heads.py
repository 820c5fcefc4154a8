"""Small models that have an MTP head: a block that predicts the token after the next one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.zoo.blocks import attention, common_keys, ends, ffn, routed
from tests.zoo.loadable import write_loadable
from tests.zoo.writer import Model

_Weights = npt.NDArray[np.float32]


def glm4_moe(layers: int = 4, d: int = 256, ff: int = 512, vocab: int = 1200, experts: int = 4) -> Model:
    """Attention in each of `layers` dense layers; experts in the head's block."""
    head, heads, kv = 64, d // 64, max(d // 128, 1)
    keys = common_keys(
        layers + 1, d, ff, 4096, vocab, attention__head_count=heads, attention__head_count_kv=kv,
        attention__key_length=head, attention__value_length=head, rope__dimension_count=head,
        leading_dense_block_count=layers, expert_count=experts, expert_used_count=2, expert_shared_count=1,
        expert_feed_forward_length=ff // 4, expert_weights_scale=1.0, expert_gating_func=2,
        nextn_predict_layers=1,
    )  # fmt: skip
    model = Model("glm4moe", keys)
    ends(model, d, vocab)
    for i in range(layers + 1):
        b = f"blk.{i}."
        attention(model, b, d, heads * head, kv * head)
        model.add(b, post_attention_norm=d)
        if i < layers:
            ffn(model, b, d, ff)
            continue
        routed(model, b, d, ff // 4, experts)
        model.tensors[b + "exp_probs_b.bias"] = (experts,)
        ffn(model, b, d, ff // 4, "_shexp")
    _head(model, f"blk.{layers}.nextn.", d)
    return model


def qwen35(layers: int = 4, d: int = 256, ff: int = 512, vocab: int = 1200) -> Model:
    """Three layers of linear attention for each of the common kind, and a head that attends."""
    head, heads, kv, state, groups = 64, d // 64, max(d // 128, 1), 32, 4
    inner = d
    keys = common_keys(
        layers + 1, d, ff, 4096, vocab, attention__head_count=heads, attention__head_count_kv=kv,
        attention__key_length=head, attention__value_length=head, nextn_predict_layers=1, ssm__conv_kernel=4,
        ssm__inner_size=inner, ssm__state_size=state, ssm__time_step_rank=inner // state,
        ssm__group_count=groups, rope__dimension_count=head, rope__dimension_sections=[8, 12, 12, 0],
    )  # fmt: skip
    model = Model("qwen35", keys)
    ends(model, d, vocab)
    mixed = 2 * state * groups + inner
    for i in range(layers + 1):
        b = f"blk.{i}."
        if i == layers or i % 4 == 3:
            attention(model, b, d, heads * head, kv * head)
            model.add(b, attn_q=(d, 2 * heads * head), attn_q_norm=head, attn_k_norm=head)
        else:
            model.add(b, attn_norm=d, attn_qkv=(d, mixed), attn_gate=(d, inner))
            model.add(b, ssm_beta=(d, inner // state), ssm_alpha=(d, inner // state))
            model.add(b, ssm_conv1d=(4, mixed), ssm_norm=state, ssm_out=(inner, d))
            model.tensors |= {b + "ssm_dt.bias": (inner // state,), b + "ssm_a": (inner // state,)}
        model.add(b, post_attention_norm=d)
        ffn(model, b, d, ff)
    _head(model, f"blk.{layers}.nextn.", d)
    return model


HEADS: dict[str, Callable[..., Model]] = {"glm4_moe": glm4_moe, "qwen35": qwen35}


def write_agreeing(
    model: Model,
    path: Path,
    common: str = "F32",
    faintness: float = 0.03,
    *,
    agrees: bool = True,
    sharpness: float = 1.0,
) -> Path:
    """Write a model whose head mostly predicts the model's own next token, or never without `agrees`.

    With more `sharpness` the most likely token is more likely, as a model's that was trained.

    The blocks add only `faintness` to the embedding of the last token, so that it decides the next one; the
    head takes this embedding as it is and leaves the hidden state out. Without `agrees` it mixes both up.
    """

    def weights(name: str, random: _Weights) -> _Weights:
        if "norm" in name:
            return np.ones_like(random)
        if agrees and name.endswith("nextn.eh_proj.weight"):
            return np.eye(*random.shape, dtype=np.float32)
        if name == "output.weight":
            return random * np.float32(sharpness)
        if name == "token_embd.weight":
            return random * np.float32(np.sqrt(random.shape[1]))
        is_last = any(part in name for part in ("attn_output", "ffn_down", "ssm_out"))
        return random * np.float32(faintness) if is_last else random

    return write_loadable(model, path, common, weights=weights)


def _head(model: Model, b: str, d: int) -> None:
    model.add(b, eh_proj=(2 * d, d), enorm=d, hnorm=d, shared_head_norm=d)
