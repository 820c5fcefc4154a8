"""Small models with real weights: `write_loadable(LOADABLE[name](), path)` makes one that loads whole."""

from collections.abc import Callable
from math import prod
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tests.zoo import SMALL
from tests.zoo.blocks import attention, common_keys, ends, ffn, routed
from tests.zoo.published import llama
from tests.zoo.writer import ALIGNMENT, Model, n_bytes, type_of, write

_D, _FF, _VOCAB, _CTX, _HEAD = 256, 512, 1200, 4096, 64


def dense() -> Model:
    """A llama, with rope_freqs on each device."""
    return llama(layers=6, d=_D, heads=4, kv=2, ff=_FF, vocab=_VOCAB, ctx=_CTX)


def large_vocabulary() -> Model:
    """Two narrow layers under a wide output that is the embedding as well."""
    model = llama(layers=3, d=128, heads=2, kv=1, ff=128, vocab=20_000, ctx=_CTX)
    del model.tensors["output.weight"]
    return model


def qwen3() -> Model:
    """Norms of queries and keys; heads wider than the model is."""
    keys = common_keys(
        5, _D, _FF, _CTX, _VOCAB, attention__head_count=8, attention__head_count_kv=4,
        attention__key_length=_HEAD, attention__value_length=_HEAD,
    )  # fmt: skip
    model = Model("qwen3", keys)
    ends(model, _D, _VOCAB)
    for i in range(5):
        attention(model, f"blk.{i}.", _D, 8 * _HEAD, 4 * _HEAD)
        model.add(f"blk.{i}.", ffn_norm=_D, attn_q_norm=_HEAD, attn_k_norm=_HEAD)
        ffn(model, f"blk.{i}.", _D, _FF)
    return model


def qwen3_moe() -> Model:
    """16 experts, 4 used."""
    keys = common_keys(
        4, _D, _FF, _CTX, _VOCAB, attention__head_count=4, attention__head_count_kv=2,
        attention__key_length=_HEAD, attention__value_length=_HEAD, expert_count=16, expert_used_count=4,
        expert_feed_forward_length=96,
    )  # fmt: skip
    model = Model("qwen3moe", keys)
    ends(model, _D, _VOCAB)
    for i in range(4):
        attention(model, f"blk.{i}.", _D, 4 * _HEAD, 2 * _HEAD)
        model.add(f"blk.{i}.", ffn_norm=_D, attn_q_norm=_HEAD, attn_k_norm=_HEAD)
        routed(model, f"blk.{i}.", _D, 96, 16)
    return model


def gemma3() -> Model:
    """A window in five layers of six; tied embeddings."""
    keys = common_keys(
        7, _D, _FF, _CTX, _VOCAB, attention__head_count=4, attention__head_count_kv=2,
        attention__key_length=_HEAD, attention__value_length=_HEAD, attention__sliding_window=256,
    )  # fmt: skip
    model = Model("gemma3", keys)
    ends(model, _D, _VOCAB, tied=True)
    for i in range(7):
        b = f"blk.{i}."
        attention(model, b, _D, 4 * _HEAD, 2 * _HEAD)
        model.add(b, attn_q_norm=_HEAD, attn_k_norm=_HEAD, ffn_norm=_D)
        model.add(b, post_attention_norm=_D, post_ffw_norm=_D)
        ffn(model, b, _D, _FF)
    return model


def qwen2vl() -> Model:
    """Positions of three dimensions."""
    keys = common_keys(
        4, _D, _FF, _CTX, _VOCAB, attention__head_count=4, attention__head_count_kv=2,
        rope__dimension_sections=[8, 12, 12, 0],
    )  # fmt: skip
    model = Model("qwen2vl", keys)
    ends(model, _D, _VOCAB)
    for i in range(4):
        attention(model, f"blk.{i}.", _D, _D, _D // 2)
        model.add(f"blk.{i}.", ffn_norm=_D)
        ffn(model, f"blk.{i}.", _D, _FF)
    return model


def deepseek2() -> Model:
    """Latent attention (MLA), a dense layer and then experts beside a shared one."""
    heads, q_lora, kv_lora, nope, rope, experts, ff = 8, 96, 128, 64, 32, 8, 128
    keys = common_keys(
        4, _D, _FF, _CTX, _VOCAB, attention__head_count=heads, attention__head_count_kv=1,
        attention__q_lora_rank=q_lora, attention__kv_lora_rank=kv_lora,
        attention__key_length=kv_lora + rope, attention__value_length=kv_lora,
        attention__key_length_mla=nope + rope, attention__value_length_mla=nope, rope__dimension_count=rope,
        leading_dense_block_count=1, expert_count=experts, expert_used_count=2, expert_shared_count=1,
        expert_feed_forward_length=ff, expert_weights_scale=2.5, expert_gating_func=2,
    )  # fmt: skip
    model = Model("deepseek2", keys)
    ends(model, _D, _VOCAB)
    for i in range(4):
        b = f"blk.{i}."
        model.add(
            b, attn_norm=_D, attn_q_a=(_D, q_lora), attn_q_a_norm=q_lora,
            attn_q_b=(q_lora, heads * (nope + rope)), attn_kv_a_mqa=(_D, kv_lora + rope),
            attn_kv_a_norm=kv_lora, attn_k_b=(nope, kv_lora, heads), attn_v_b=(kv_lora, nope, heads),
            attn_output=(heads * nope, _D), ffn_norm=_D,
        )  # fmt: skip
        if i == 0:
            ffn(model, b, _D, _FF)
            continue
        routed(model, b, _D, ff, experts)
        model.tensors[b + "exp_probs_b.bias"] = (experts,)
        ffn(model, b, _D, ff, "_shexp")
    return model


def nemotron_h() -> Model:
    """Each layer is Mamba, a feed-forward network or attention, and nothing else."""
    pattern, inner, state, ssm_heads, groups = "MFM*MFM*", 512, 128, 8, 2
    keys = common_keys(
        len(pattern), _D, [_FF * (c == "F") for c in pattern], _CTX, _VOCAB, attention__head_count=4,
        attention__head_count_kv=[2 * (c == "*") for c in pattern], attention__key_length=_HEAD,
        attention__value_length=_HEAD, attention__layer_norm_epsilon=1e-5, rope__dimension_count=_HEAD,
        ssm__conv_kernel=4, ssm__state_size=state, ssm__group_count=groups, ssm__inner_size=inner,
        ssm__time_step_rank=ssm_heads,
    )  # fmt: skip
    model = Model("nemotron_h", keys)
    ends(model, _D, _VOCAB)
    mixed = inner + 2 * groups * state
    for i, kind in enumerate(pattern):
        b = f"blk.{i}."
        if kind == "*":
            attention(model, b, _D, 4 * _HEAD, 2 * _HEAD)
            continue
        model.add(b, attn_norm=_D)
        if kind == "F":
            ffn(model, b, _D, _FF, gate=False)
            continue
        model.add(b, ssm_in=(_D, inner + mixed + ssm_heads), ssm_conv1d=(4, mixed), ssm_out=(inner, _D))
        model.add(b, ssm_norm=(inner // groups, groups))
        model.tensors |= {
            b + "ssm_conv1d.bias": (mixed,), b + "ssm_dt.bias": (ssm_heads,), b + "ssm_a": (1, ssm_heads),
            b + "ssm_d": (1, ssm_heads),
        }  # fmt: skip
    return model


def gpt_oss() -> Model:
    """Attention sinks, biases everywhere, a window in every other layer, experts."""
    n, ff = 8, 96
    keys = common_keys(
        4, _D, _FF, _CTX, _VOCAB, attention__head_count=4, attention__head_count_kv=2,
        attention__key_length=_HEAD, attention__value_length=_HEAD, attention__sliding_window=128,
        expert_count=n, expert_used_count=2, expert_feed_forward_length=ff,
    )  # fmt: skip
    model = Model("gpt-oss", keys)
    ends(model, _D, _VOCAB)
    for i in range(4):
        b = f"blk.{i}."
        attention(model, b, _D, 4 * _HEAD, 2 * _HEAD)
        model.add(b, post_attention_norm=_D)
        routed(model, b, _D, ff, n)
        model.tensors |= {
            b + "attn_q.bias": (4 * _HEAD,), b + "attn_k.bias": (2 * _HEAD,), b + "attn_v.bias": (2 * _HEAD,),
            b + "attn_output.bias": (_D,), b + "attn_sinks.weight": (4,), b + "ffn_gate_inp.bias": (n,),
            b + "ffn_gate_exps.bias": (ff, n), b + "ffn_up_exps.bias": (ff, n),
            b + "ffn_down_exps.bias": (_D, n),
        }  # fmt: skip
        for name in ("attn_sinks.weight", "ffn_gate_exps.bias", "ffn_up_exps.bias", "ffn_down_exps.bias"):
            model.types[b + name] = "F32"
    return model


LOADABLE: dict[str, Callable[[], Model]] = SMALL | {
    "dense": dense,
    "large_vocabulary": large_vocabulary,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "gemma3": gemma3,
    "deepseek2": deepseek2,
    "nemotron_h": nemotron_h,
    "gpt_oss": gpt_oss,
}


def with_vocabulary(model: Model) -> Model:
    """The model with a byte vocabulary, which it needs to serve: llama.cpp aborts where there is none."""
    n_words = int(str(model.keys["vocab_size"])) - 259
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    words = [f"\u2581w{i}" for i in range(n_words)]
    model.metadata |= {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *bytes_, *words],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * n_words],  # llama_token_type of llama.h
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return model


_Weights = npt.NDArray[np.float32]


def write_loadable(
    model: Model,
    path: Path,
    common: str = "Q8_0",
    seed: int = 1,
    weights: Callable[[str, _Weights], _Weights] = lambda _name, random: random,
) -> Path:
    """Write the model to `path` with random weights of a width that keeps activations near 1.

    `weights` may change those of a tensor, which come with its name.
    """
    write(model, path, common)
    random = np.random.default_rng(seed)
    sizes = {name: -(-n_bytes(model, name, common) // ALIGNMENT) * ALIGNMENT for name in model.tensors}
    with path.open("r+b") as stream:
        offset = path.stat().st_size - sum(sizes.values())
        for name, shape in model.tensors.items():
            values = random.standard_normal((prod(shape[1:]), shape[0]), dtype=np.float32)
            values /= np.sqrt(shape[0]).astype(np.float32)
            if name.endswith("ssm_a"):
                values = -np.abs(values)  # of a positive one the state grows without end
            values = weights(name, values)
            stored = gguf.GGMLQuantizationType(type_of(model, name, common).id)
            stream.seek(offset)
            stream.write(gguf.quantize(values, stored).tobytes())
            offset += sizes[name]
    return path
