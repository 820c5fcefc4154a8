"""MTP heads of further kinds: with windows and two blocks, on Mamba with experts, with latent attention."""

from collections.abc import Callable

from tests.zoo.blocks import attention, common_keys, ends, ffn, routed
from tests.zoo.loadable import deepseek2, nemotron_h
from tests.zoo.writer import Model

_D, _FF, _VOCAB, _HEAD = 256, 512, 1200, 64


def mimo2(blocks: int = 2, *, fused: bool = True) -> Model:
    """Windows in all layers but the first and the last; `blocks` MTP blocks with windows.

    Without `fused`, queries, keys and values are tensors of their own, which the head's graph does not take.
    """
    trunk = 4
    layers = trunk + blocks
    keys = common_keys(
        layers, _D, _FF, 4096, _VOCAB, attention__head_count=4, attention__head_count_kv=2,
        attention__key_length=_HEAD, attention__value_length=_HEAD, rope__dimension_count=_HEAD,
        attention__sliding_window=128, expert_feed_forward_length=_FF // 4, nextn_predict_layers=blocks,
        attention__sliding_window_pattern=[0 < i != trunk - 1 for i in range(layers)],
    )  # fmt: skip
    model = Model("mimo2", keys)
    ends(model, _D, _VOCAB)
    for i in range(layers):
        b = f"blk.{i}."
        if fused:
            model.add(b, attn_norm=_D, attn_qkv=(_D, 8 * _HEAD), attn_output=(4 * _HEAD, _D))
        else:
            attention(model, b, _D, 4 * _HEAD, 2 * _HEAD)
        model.add(b, ffn_norm=_D)
        ffn(model, b, _D, _FF)
        if i >= trunk:
            _join(model, b)
    return model


def nemotron_h_moe() -> Model:
    """Layers of Mamba, a feed-forward network or attention; a head that attends and has experts."""
    model, experts, ff = nemotron_h(), 4, 96
    model.arch = "nemotron_h_moe"
    n = int(str(model.keys["block_count"]))
    feed_forward, kv = model.keys["feed_forward_length"], model.keys["attention.head_count_kv"]
    assert isinstance(feed_forward, list)
    assert isinstance(kv, list)
    for i, width in enumerate(feed_forward):
        if width:
            b = f"blk.{i}."
            del model.tensors[b + "ffn_up.weight"], model.tensors[b + "ffn_down.weight"]
            _experts(model, b, ff, experts)
    model.keys |= {
        "block_count": n + 1, "nextn_predict_layers": 1, "feed_forward_length": [*feed_forward, _FF],
        "attention.head_count_kv": [*kv, 2], "expert_count": experts, "expert_used_count": 2,
        "expert_shared_count": 1, "expert_feed_forward_length": ff,
        "expert_shared_feed_forward_length": _FF // 4, "expert_weights_scale": 1.0,
    }  # fmt: skip
    b = f"blk.{n}."
    attention(model, b, _D, 4 * _HEAD, 2 * _HEAD)
    model.add(b, post_attention_norm=_D)
    _experts(model, b, ff, experts)
    _join(model, b)
    return model


def glm4_lite() -> Model:
    """Latent attention, as in DeepSeek V3 and GLM 4.7 Flash."""
    model = deepseek2()
    n = int(str(model.keys["block_count"]))
    model.keys |= {"block_count": n + 1, "nextn_predict_layers": 1}
    last, b = f"blk.{n - 1}.", f"blk.{n}."
    same = {name: shape for name, shape in model.tensors.items() if name.startswith(last)}
    model.tensors |= {b + name[len(last) :]: shape for name, shape in same.items()}
    _join(model, b)
    return model


MORE_HEADS: dict[str, Callable[..., Model]] = {
    "mimo2": mimo2,
    "nemotron_h_moe": nemotron_h_moe,
    "glm4_lite": glm4_lite,
}


def _experts(model: Model, b: str, ff: int, n: int) -> None:
    routed(model, b, _D, ff, n, gate=False)
    ffn(model, b, _D, _FF // 4, "_shexp", gate=False)
    model.tensors[b + "exp_probs_b.bias"] = (n,)


def _join(model: Model, b: str) -> None:
    """The part of a block that joins a token and a hidden state."""
    model.add(b + "nextn.", eh_proj=(2 * _D, _D), enorm=_D, hnorm=_D, shared_head_norm=_D)


def exaone_moe() -> Model:
    """Windows, and an MTP block for which llama.cpp has no graph."""
    keys = common_keys(
        5, _D, _FF, 4096, _VOCAB, attention__head_count=4, attention__head_count_kv=2,
        attention__key_length=_HEAD, attention__value_length=_HEAD, rope__dimension_count=_HEAD,
        attention__sliding_window=128, leading_dense_block_count=4, expert_feed_forward_length=_FF,
        expert_gating_func=2, nextn_predict_layers=1,
    )  # fmt: skip
    model = Model("exaone-moe", keys)
    ends(model, _D, _VOCAB)
    for i in range(5):
        b = f"blk.{i}."
        attention(model, b, _D, 4 * _HEAD, 2 * _HEAD)
        model.add(b, attn_q_norm=_HEAD, attn_k_norm=_HEAD, ffn_norm=_D)
        ffn(model, b, _D, _FF)
    _join(model, "blk.4.")
    return model
