"""Models of many KV heads, so that devices of unequal shares get some of each tensor in a tensor split."""

from tests.zoo.blocks import attention, common_keys, ends, ffn, routed
from tests.zoo.loadable import with_vocabulary
from tests.zoo.writer import Model

WIDE = ("llama", "qwen3moe", "gemma3")
_HEADS, _EXPERTS, _VOCAB, _CTX = 16, 4, 1200, 2048


def wide(architecture: str, *, layers: int = 3, d: int = 256, head: int = 32, ff: int = 1280) -> Model:
    """A model of one of WIDE, `d` wide, with 16 KV heads of `head` numbers, and 2 of 4 experts used.

    `ff` is the width of each feed-forward network, or of each expert.
    """
    window = {"attention__sliding_window": 64} if architecture == "gemma3" else {}
    experts = {"expert_count": _EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": ff}
    keys = common_keys(
        layers, d, ff, _CTX, _VOCAB, attention__head_count=_HEADS, attention__head_count_kv=_HEADS,
        attention__key_length=head, attention__value_length=head, rope__dimension_count=head, **window,
        **(experts if architecture == "qwen3moe" else {}),
    )  # fmt: skip
    model = Model(architecture, keys)
    ends(model, d, _VOCAB, tied=architecture == "gemma3")
    for i in range(layers):
        layer = f"blk.{i}."
        attention(model, layer, d, _HEADS * head, _HEADS * head)
        model.add(layer, ffn_norm=d)
        if architecture != "llama":
            model.add(layer, attn_q_norm=head, attn_k_norm=head)
        if architecture == "gemma3":
            model.add(layer, post_attention_norm=d, post_ffw_norm=d)
        if architecture == "qwen3moe":
            routed(model, layer, d, ff, _EXPERTS)
        else:
            ffn(model, layer, d, ff)
    return with_vocabulary(model)
