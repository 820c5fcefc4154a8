"""Small models, one for each way llama.cpp has of remembering. Sizes are made up; names and keys are real."""

from tests.zoo.blocks import attention, common_keys, ends, ffn
from tests.zoo.writer import Model, Shape

_D, _FF, _VOCAB, _CTX = 256, 512, 1000, 4096
_HEADS, _KV, _HEAD = 8, 2, 32


def _model(arch: str, layers: int, *, tied: bool = True, **keys: object) -> Model:
    given = common_keys(layers, _D, _FF, _CTX, _VOCAB, **{"attention__head_count": _HEADS} | keys)
    model = Model(arch, given, metadata={"general.name": arch})
    ends(model, _D, _VOCAB, tied=tied)
    return model


def _attend_and_feed(model: Model, i: int, *, head: int = _HEAD, stores: bool = True) -> None:
    b = f"blk.{i}."
    attention(model, b, _D, _HEADS * head, _KV * head)
    if not stores:
        del model.tensors[b + "attn_k.weight"], model.tensors[b + "attn_v.weight"]
    model.add(b, ffn_norm=_D)
    ffn(model, b, _D, _FF)


def _mamba2(model: Model, b: str) -> None:
    inner, state, heads, groups = 512, 32, 8, 2
    mixed = inner + 2 * groups * state
    model.keys |= {
        "ssm.conv_kernel": 4, "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": heads,
        "ssm.group_count": groups,
    }  # fmt: skip
    more: dict[str, Shape] = {
        "ssm_in.weight": (_D, inner + mixed + heads), "ssm_conv1d.weight": (4, mixed),
        "ssm_out.weight": (inner, _D),
        "ssm_norm.weight": (inner // groups, groups), "ssm_conv1d.bias": (mixed,), "ssm_dt.bias": (heads,),
        "ssm_a": (1, heads), "ssm_d": (1, heads),
    }  # fmt: skip
    model.tensors |= {b + name: shape for name, shape in more.items()}


def mamba2() -> Model:
    """State in every layer and no keys or values."""
    model = _model("mamba2", 4, attention__head_count=0)
    for i in range(4):
        model.add(f"blk.{i}.", attn_norm=_D)
        _mamba2(model, f"blk.{i}.")
    return model


def falcon_h1() -> Model:
    """State, keys and values in every layer."""
    model = _model("falcon-h1", 3, attention__head_count_kv=_KV)
    for i in range(3):
        _attend_and_feed(model, i)
        _mamba2(model, f"blk.{i}.")
        model.tensors[f"blk.{i}.ffn_norm"] = model.tensors.pop(f"blk.{i}.ffn_norm.weight")
    return model


def lfm2() -> Model:
    """Short convolutions, and attention where head_count_kv is not 0; its output norm is token_embd_norm."""
    kv = [0, 0, _KV, 0, _KV]
    model = _model("lfm2", len(kv), attention__head_count_kv=kv, shortconv__l_cache=3)
    model.tensors["token_embd_norm.weight"] = model.tensors.pop("output_norm.weight")
    for i, heads in enumerate(kv):
        b = f"blk.{i}."
        if heads:
            _attend_and_feed(model, i)
            model.add(b, attn_q_norm=_HEAD, attn_k_norm=_HEAD)
            continue
        model.add(b, attn_norm=_D, ffn_norm=_D)
        model.tensors |= {
            b + "shortconv.conv.weight": (3, _D), b + "shortconv.in_proj.weight": (_D, 3 * _D),
            b + "shortconv.out_proj.weight": (_D, _D),
        }  # fmt: skip
        model.types[b + "shortconv.conv.weight"] = "F32"
        ffn(model, b, _D, _FF)
    return model


def gemma2() -> Model:
    """Every other layer sees a window."""
    model = _model(
        "gemma2", 6, attention__head_count_kv=_KV, attention__key_length=_HEAD, attention__value_length=_HEAD,
        attention__sliding_window=512,
    )  # fmt: skip
    for i in range(6):
        _attend_and_feed(model, i)
        model.add(f"blk.{i}.", post_attention_norm=_D, post_ffw_norm=_D)
    return model


def gemma4() -> Model:
    """Windows listed by layer, heads of another size there, and last layers that reuse others' keys."""
    windowed = [True, True, True, False, True, False]
    model = _model(
        "gemma4", 6, attention__head_count_kv=_KV, attention__sliding_window=512,
        attention__sliding_window_pattern=windowed, attention__shared_kv_layers=2, attention__key_length=64,
        attention__value_length=64, attention__key_length_swa=_HEAD, attention__value_length_swa=_HEAD,
        rope__dimension_count=64, rope__dimension_count_swa=_HEAD, embedding_length_per_layer_input=16,
    )  # fmt: skip
    model.add(rope_freqs=32, per_layer_token_embd=(16 * 6, _VOCAB), per_layer_model_proj=(_D, 16 * 6))
    model.add(per_layer_proj_norm=16)
    for i, window in enumerate(windowed):
        b, head = f"blk.{i}.", _HEAD if window else 64
        _attend_and_feed(model, i, head=head)
        model.add(b, attn_q_norm=head, attn_k_norm=head, post_attention_norm=_D, post_ffw_norm=_D)
        model.add(b, inp_gate=(_D, 16), proj=(16, _D), post_norm=_D)
    return model


def qwen3next() -> Model:
    """Three layers of linear attention, then one of the common kind, then a draft block."""
    layers, inner, state, heads, groups, n, ff = 5, 256, 32, 8, 4, 4, 64
    model = _model(
        "qwen3next", layers, attention__head_count_kv=_KV, attention__key_length=_HEAD,
        attention__value_length=_HEAD, nextn_predict_layers=1, expert_count=n, expert_used_count=2,
        expert_feed_forward_length=ff, expert_shared_feed_forward_length=ff, ssm__conv_kernel=4,
        ssm__inner_size=inner, ssm__state_size=state, ssm__time_step_rank=heads, ssm__group_count=groups,
        rope__dimension_sections=[8, 4, 4, 0],
    )  # fmt: skip
    keys, values = state * groups, state * heads
    for i in range(layers):
        b = f"blk.{i}."
        model.add(b, attn_norm=_D, post_attention_norm=_D)
        if i >= 3:
            model.add(b, attn_q=(_D, 2 * _HEADS * _HEAD), attn_k=(_D, _KV * _HEAD), attn_v=(_D, _KV * _HEAD))
            model.add(b, attn_output=(_HEADS * _HEAD, _D), attn_q_norm=_HEAD, attn_k_norm=_HEAD)
        else:
            model.add(b, attn_qkv=(_D, 2 * keys + values), attn_gate=(_D, values), ssm_ba=(_D, 2 * heads))
            model.add(b, ssm_conv1d=(4, 2 * keys + values), ssm_norm=state, ssm_out=(values, _D))
            model.tensors |= {b + "ssm_dt.bias": (heads,), b + "ssm_a": (heads,)}
        model.add(b, ffn_gate_inp=(_D, n), ffn_gate_exps=(_D, ff, n), ffn_up_exps=(_D, ff, n))
        model.add(b, ffn_down_exps=(ff, _D, n), ffn_gate_inp_shexp=_D, ffn_gate_shexp=(_D, ff))
        model.add(b, ffn_up_shexp=(_D, ff), ffn_down_shexp=(ff, _D))
    b = f"blk.{layers - 1}.nextn."
    model.add(b, eh_proj=(2 * _D, _D), enorm=_D, hnorm=_D)
    return model


def bert() -> Model:
    """An encoder: nothing is kept of the past, and there is no output matrix."""
    model = _model("bert", 2, attention__causal=False, attention__layer_norm_epsilon=1e-12)
    del model.tensors["output_norm.weight"]
    model.metadata["tokenizer.ggml.token_type_count"] = 2
    model.add(position_embd=(_D, _CTX), token_types=(_D, 2), token_embd_norm=_D)
    model.tensors["token_embd_norm.bias"] = (_D,)
    for i in range(2):
        b = f"blk.{i}."
        model.add(b, attn_q=(_D, _D), attn_k=(_D, _D), attn_v=(_D, _D), attn_output=(_D, _D))
        for norm in ("attn_output_norm", "layer_output_norm"):
            model.tensors |= {f"{b}{norm}.weight": (_D,), f"{b}{norm}.bias": (_D,)}
        ffn(model, b, _D, _FF, gate=False)
    return model
