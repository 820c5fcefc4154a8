"""The models of llama_server_lines.toml: headers in the published shapes."""

from collections.abc import Callable

from tests import zoo
from tests.zoo.blocks import attention, common_keys, ends, ffn
from tests.zoo.writer import Model


def _devstral() -> Model:
    """Devstral Small 2507, and Mistral Small 24B: heads of 128 in a width of 5120."""
    layers, d, head, heads, kv, ff, vocab = 40, 5120, 128, 32, 8, 32768, 131072
    keys = common_keys(
        layers, d, ff, 131072, vocab, attention__head_count=heads, attention__head_count_kv=kv,
        attention__key_length=head, attention__value_length=head, rope__dimension_count=head,
    )  # fmt: skip
    model = Model("llama", keys, metadata={"general.name": "Devstral Small 2507"})
    ends(model, d, vocab)
    for i in range(layers):
        b = f"blk.{i}."
        attention(model, b, d, heads * head, kv * head)
        model.add(b, ffn_norm=d)
        ffn(model, b, d, ff)
    return model


def _qwen2_32b() -> Model:
    """Qwen2.5 32B, and DeepSeek R1's distillation into it: attention with biases."""
    layers, d, heads, kv, head, ff, vocab = 64, 5120, 40, 8, 128, 27648, 152064
    keys = common_keys(
        layers, d, ff, 131072, vocab, attention__head_count=heads, attention__head_count_kv=kv,
    )  # fmt: skip
    model = Model("qwen2", keys, metadata={"general.name": "DeepSeek R1 Distill Qwen 32B"})
    ends(model, d, vocab)
    for i in range(layers):
        b = f"blk.{i}."
        attention(model, b, d, heads * head, kv * head)
        model.tensors |= {
            f"{b}attn_{part}.bias": (n,) for part, n in (("q", d), ("k", kv * head), ("v", kv * head))
        }
        model.add(b, ffn_norm=d)
        ffn(model, b, d, ff)
    return model


def _llama2_70b() -> Model:
    return zoo.llama(80, 8192, 64, 8, 28672, 32000, 4096, rope_freqs=False)


def _llama3_70b() -> Model:
    return zoo.llama(80, 8192, 64, 8, 28672)


def _nemotron_nano() -> Model:
    return zoo.as_q4_k_m(zoo.nemotron_nano())


MAKERS: dict[str, Callable[[], Model]] = {
    "deepseek": zoo.deepseek2,
    "devstral": _devstral,
    "glm_45_air": zoo.glm_45_air,
    "gpt_oss_120b": zoo.gpt_oss,
    "llama2_70b": _llama2_70b,
    "llama3_70b": _llama3_70b,
    "nemotron_49b": zoo.nemotron_49b,
    "nemotron_nano": _nemotron_nano,
    "qwen2_32b": _qwen2_32b,
    "qwen3_235b": zoo.qwen3_235b,
    "qwen3_30b": zoo.qwen3_moe,
}
