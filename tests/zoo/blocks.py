"""Groups of tensors that the models of the zoo are made of."""

from tests.zoo.writer import Model


def common_keys(
    layers: int, d: int, ff: int | list[int], ctx: int, vocab: int, **more: object
) -> dict[str, object]:
    given = {key.replace("__", "."): value for key, value in more.items()}
    return {
        "block_count": layers, "embedding_length": d, "feed_forward_length": ff, "context_length": ctx,
        "vocab_size": vocab, "attention.layer_norm_rms_epsilon": 1e-5, **given,
    }  # fmt: skip


def ends(model: Model, d: int, vocab: int, *, tied: bool = False) -> None:
    model.add(token_embd=(d, vocab), output_norm=d)
    if not tied:
        model.add(output=(d, vocab))


def attention(model: Model, b: str, d: int, q: int, kv: int) -> None:
    model.add(b, attn_norm=d, attn_q=(d, q), attn_k=(d, kv), attn_v=(d, kv), attn_output=(q, d))


def ffn(model: Model, b: str, d: int, ff: int, suffix: str = "", *, gate: bool = True) -> None:
    if gate:
        model.add(b, **{f"ffn_gate{suffix}": (d, ff)})
    model.add(b, **{f"ffn_up{suffix}": (d, ff), f"ffn_down{suffix}": (ff, d)})


def routed(model: Model, b: str, d: int, ff: int, n: int, *, gate: bool = True) -> None:
    model.add(b, ffn_gate_inp=(d, n), ffn_up_exps=(d, ff, n), ffn_down_exps=(ff, d, n))
    if gate:
        model.add(b, ffn_gate_exps=(d, ff, n))
