"""Models people run, in their real shapes."""

from tests.zoo.blocks import attention, common_keys, ends, ffn, routed
from tests.zoo.writer import Model, type_of


def llama(
    layers: int = 32, d: int = 4096, heads: int = 32, kv: int = 8, ff: int = 14336, vocab: int = 128256,
    ctx: int = 131072, *, rope_freqs: bool = True,
) -> Model:  # fmt: skip
    """Llama 3.1 8B, or another of its shape."""
    head = d // heads
    keys = common_keys(
        layers, d, ff, ctx, vocab, attention__head_count=heads, attention__head_count_kv=kv,
        rope__dimension_count=head,
    )  # fmt: skip
    model = Model("llama", keys, metadata={"general.name": f"llama of {layers} layers"})
    ends(model, d, vocab)
    if rope_freqs:
        model.add(rope_freqs=head // 2)
    for i in range(layers):
        attention(model, f"blk.{i}.", d, d, kv * head)
        model.add(f"blk.{i}.", ffn_norm=d)
        ffn(model, f"blk.{i}.", d, ff)
    return model


# Llama-3_3-Nemotron-Super-49B: feed-forward width of each layer over d times 2/3; "-": it has no attention.
_PUZZLE = (
    "2.625 5.25*5 -2.625*2 5.25*3 -3.28125 5.25*30 -1.3125 -2.625*2 -1.3125 -5.25 -1.3125 -2.625 -1.3125*3"
    " 5.25 -1.3125 -1.0*2 -1.3125 -1.0*3 -1.3125*2 -0.5*2 -1.0*2 -0.5*2 -1.0 -0.5*2 5.25*9"
)


def nemotron_49b() -> Model:
    """The pruned 49B: 80 layers, 31 of them without attention, feed-forward networks of eight widths."""
    d, vocab, heads, kv = 8192, 128256, 64, 8
    spec: list[str] = []
    for word in _PUZZLE.split():
        width, _, times = word.partition("*")
        spec += [width] * int(times or 1)
    ffs = [-(-int(2 * abs(float(width)) * d / 3) // 256) * 256 for width in spec]
    attends = [not width.startswith("-") for width in spec]
    keys = common_keys(
        len(spec), d, 0, 131072, vocab, attention__head_count=[heads * on for on in attends],
        attention__head_count_kv=[kv * on for on in attends], rope__dimension_count=d // heads,
    )  # fmt: skip
    keys |= {"feed_forward_length": ffs, "attention.key_length": 128, "attention.value_length": 128}
    model = Model("deci", keys, metadata={"general.name": "Llama 3.3 Nemotron Super 49B v1.5"})
    ends(model, d, vocab)
    model.add(rope_freqs=64)
    for i, (ff, on) in enumerate(zip(ffs, attends, strict=True)):
        if on:
            attention(model, f"blk.{i}.", d, d, kv * 128)
        model.add(f"blk.{i}.", ffn_norm=d)
        ffn(model, f"blk.{i}.", d, ff)
    return model


def gemma3(
    layers: int = 62, d: int = 5376, ff: int = 21504, vocab: int = 262208, window: int = 1024
) -> Model:
    """Gemma 3 27B: tied embeddings, one layer in six without a sliding window."""
    heads, kv, head = 32, 16, 128
    keys = common_keys(
        layers, d, ff, 131072, vocab, attention__head_count=heads, attention__head_count_kv=kv,
        attention__key_length=head, attention__value_length=head, attention__sliding_window=window,
    )  # fmt: skip
    model = Model("gemma3", keys, metadata={"general.name": "Gemma 3 27b It"})
    ends(model, d, vocab, tied=True)
    for i in range(layers):
        b = f"blk.{i}."
        attention(model, b, d, heads * head, kv * head)
        model.add(b, attn_q_norm=head, attn_k_norm=head, post_attention_norm=d, ffn_norm=d, post_ffw_norm=d)
        ffn(model, b, d, ff)
    return model


def qwen3_moe(
    layers: int = 48, d: int = 2048, heads: int = 32, ff: int = 768, dense_ff: int = 6144,
    name: str = "Qwen3 30B A3B",
) -> Model:  # fmt: skip
    """Qwen3 30B A3B, or another of its shape: 128 experts, 8 used."""
    kv, head, experts = 4, 128, 128
    keys = common_keys(
        layers, d, dense_ff, 40960, 151936, attention__head_count=heads, attention__head_count_kv=kv,
        attention__key_length=head, attention__value_length=head, expert_count=experts, expert_used_count=8,
        expert_feed_forward_length=ff,
    )  # fmt: skip
    model = Model("qwen3moe", keys, metadata={"general.name": name})
    ends(model, d, 151936)
    for i in range(layers):
        b = f"blk.{i}."
        attention(model, b, d, heads * head, kv * head)
        model.add(b, attn_q_norm=head, attn_k_norm=head, ffn_norm=d)
        routed(model, b, d, ff, experts)
    return model


def qwen3_235b() -> Model:
    """Qwen3 235B A22B."""
    return qwen3_moe(94, 4096, 64, 1536, 12288, "Qwen3 235B A22B")


def glm_45_air(layers: int = 46) -> Model:
    """GLM 4.5 Air: one dense layer, then 128 experts and a shared one; an MTP block behind the layers."""
    d, heads, kv, head, ff, ff_exp, experts, vocab = 4096, 96, 8, 128, 10944, 1408, 128, 151552
    keys = common_keys(
        layers + 1, d, ff, 131072, vocab, attention__head_count=heads, attention__head_count_kv=kv,
        attention__key_length=head, attention__value_length=head, rope__dimension_count=64,
        expert_count=experts, expert_used_count=8, expert_shared_count=1, leading_dense_block_count=1,
        expert_feed_forward_length=ff_exp, expert_weights_norm=True, expert_gating_func=2,
        nextn_predict_layers=1,
    )  # fmt: skip
    model = Model("glm4moe", keys, metadata={"general.name": "GLM 4.5 Air"})
    ends(model, d, vocab)
    for i in range(layers + 1):
        b = f"blk.{i}."
        attention(model, b, d, heads * head, kv * head)
        model.tensors |= {
            b + "attn_q.bias": (heads * head,), b + "attn_k.bias": (kv * head,),
            b + "attn_v.bias": (kv * head,),
        }  # fmt: skip
        model.add(b, post_attention_norm=d)
        if i == 0:
            ffn(model, b, d, ff)
            continue
        routed(model, b, d, ff_exp, experts)
        model.tensors[b + "exp_probs_b.bias"] = (experts,)
        ffn(model, b, d, ff_exp, "_shexp")
    model.add(
        f"blk.{layers}.nextn.", eh_proj=(2 * d, d), enorm=d, hnorm=d, embed_tokens=(d, vocab),
        shared_head_head=(d, vocab), shared_head_norm=d,
    )  # fmt: skip
    return model


def deepseek2(layers: int = 61, dense: int = 3, experts: int = 256) -> Model:
    """DeepSeek V3 and R1: latent attention (MLA), whose cache holds K alone."""
    d, heads, q_lora, kv_lora, nope, rope, ff, ff_exp, vocab = (
        7168,
        128,
        1536,
        512,
        128,
        64,
        18432,
        2048,
        129280,
    )
    keys = common_keys(
        layers, d, ff, 163840, vocab, attention__head_count=heads, attention__head_count_kv=1,
        attention__q_lora_rank=q_lora, attention__kv_lora_rank=kv_lora,
        attention__key_length=kv_lora + rope, attention__value_length=kv_lora,
        attention__key_length_mla=nope + rope, attention__value_length_mla=nope, rope__dimension_count=rope,
        leading_dense_block_count=dense, expert_count=experts, expert_used_count=8, expert_shared_count=1,
        expert_feed_forward_length=ff_exp, expert_weights_scale=2.5, expert_gating_func=2,
    )  # fmt: skip
    model = Model("deepseek2", keys, metadata={"general.name": "DeepSeek R1"})
    ends(model, d, vocab)
    for i in range(layers):
        b = f"blk.{i}."
        model.add(
            b, attn_norm=d, attn_q_a=(d, q_lora), attn_q_a_norm=q_lora,
            attn_q_b=(q_lora, heads * (nope + rope)),
            attn_kv_a_mqa=(d, kv_lora + rope), attn_kv_a_norm=kv_lora, attn_k_b=(nope, kv_lora, heads),
            attn_v_b=(kv_lora, nope, heads), attn_output=(heads * nope, d), ffn_norm=d,
        )  # fmt: skip
        if i < dense:
            ffn(model, b, d, ff)
        else:
            routed(model, b, d, ff_exp, experts)
            model.tensors[b + "exp_probs_b.bias"] = (experts,)
            ffn(model, b, d, ff_exp, "_shexp")
    return model


def nemotron_nano(pattern: str = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME") -> Model:
    """Nemotron 3 Nano 30B A3B: each layer is Mamba (M), experts (E) or attention (*), and nothing else."""
    d, heads, kv, head, experts, ff, shared, vocab = 2688, 32, 2, 128, 128, 1856, 3712, 131072
    inner, state, ssm_heads, groups = 4096, 128, 64, 8
    keys = common_keys(
        len(pattern), d, [ff * (c == "E") for c in pattern], 2**20, vocab, attention__head_count=heads,
        attention__head_count_kv=[kv * (c == "*") for c in pattern], attention__key_length=head,
        attention__value_length=head, attention__layer_norm_epsilon=1e-5, rope__dimension_count=84,
        ssm__conv_kernel=4, ssm__state_size=state, ssm__group_count=groups, ssm__inner_size=inner,
        ssm__time_step_rank=ssm_heads, expert_count=experts, expert_used_count=6, expert_shared_count=1,
        expert_feed_forward_length=ff, expert_shared_feed_forward_length=shared, expert_weights_scale=2.5,
    )  # fmt: skip
    model = Model("nemotron_h_moe", keys, metadata={"general.name": "NVIDIA Nemotron 3 Nano 30B A3B"})
    ends(model, d, vocab)
    mixed = inner + 2 * groups * state
    for i, kind in enumerate(pattern):
        b = f"blk.{i}."
        if kind == "*":
            attention(model, b, d, heads * head, kv * head)
            continue
        model.add(b, attn_norm=d)
        if kind == "M":
            model.add(b, ssm_in=(d, inner + mixed + ssm_heads), ssm_conv1d=(4, mixed), ssm_out=(inner, d))
            model.add(b, ssm_norm=(inner // groups, groups))
            model.tensors |= {
                b + "ssm_conv1d.bias": (mixed,), b + "ssm_dt.bias": (ssm_heads,),
                b + "ssm_a": (1, ssm_heads), b + "ssm_d": (1, ssm_heads),
            }  # fmt: skip
        else:
            routed(model, b, d, ff, experts, gate=False)
            ffn(model, b, d, shared, "_shexp", gate=False)
            model.tensors[b + "exp_probs_b.bias"] = (experts,)
    return model


def gpt_oss(layers: int = 36, experts: int = 128) -> Model:
    """gpt-oss 120B: a window of 128 tokens in every other layer, its experts as MXFP4, the rest as Q8_0."""
    d, heads, kv, head, vocab = 2880, 64, 8, 64, 201088
    keys = common_keys(
        layers, d, d, 131072, vocab, attention__head_count=heads, attention__head_count_kv=kv,
        attention__key_length=head, attention__value_length=head, attention__sliding_window=128,
        expert_count=experts, expert_used_count=4, expert_feed_forward_length=d,
    )  # fmt: skip
    model = Model("gpt-oss", keys, metadata={"general.name": "Gpt Oss 120b"})
    ends(model, d, vocab)
    for i in range(layers):
        b = f"blk.{i}."
        attention(model, b, d, heads * head, kv * head)
        model.add(b, post_attention_norm=d)
        routed(model, b, d, d, experts)
        model.tensors |= {
            b + "attn_q.bias": (heads * head,), b + "attn_k.bias": (kv * head,),
            b + "attn_v.bias": (kv * head,), b + "attn_output.bias": (d,), b + "attn_sinks.weight": (heads,),
            b + "ffn_gate_inp.bias": (experts,), b + "ffn_gate_exps.bias": (d, experts),
            b + "ffn_up_exps.bias": (d, experts), b + "ffn_down_exps.bias": (d, experts),
        }  # fmt: skip
        for part in ("gate", "up", "down"):
            model.types[f"{b}ffn_{part}_exps.weight"] = "MXFP4"
            model.types[f"{b}ffn_{part}_exps.bias"] = "F32"
    return model


def as_q4_k_m(model: Model) -> Model:
    """`model` with the larger types of Q4_K_M where llama-quantize puts them; write it with common="Q4_K".

    Source: llama_tensor_get_type_impl in llama-quant.cpp, use_more_bits.
    """
    n_layers = model.keys["block_count"]
    assert isinstance(n_layers, int)
    eighth = n_layers // 8
    model.types["output.weight" if "output.weight" in model.tensors else "token_embd.weight"] = "Q6_K"
    for i in range(n_layers):
        if i < eighth or i >= 7 * n_layers // 8 or (i - eighth) % 3 == 2:
            for part in ("attn_v", "ffn_down", "ffn_down_exps"):
                model.types[f"blk.{i}.{part}.weight"] = "Q6_K"
    for name, shape in model.tensors.items():  # tensor_type_fallback: rows that are not blocks of 256
        if model.types.get(name) == "Q6_K" and shape[0] % 256:
            model.types[name] = "Q8_0"
        elif type_of(model, name, "Q4_K").name == "F16" and shape[0] % 32 == 0:
            model.types[name] = "Q5_0"
    return model
