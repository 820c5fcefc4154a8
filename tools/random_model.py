"""Small real models: true architectures, random weights, a few hundred kilobytes to some hundred megabytes.

They load, decode and split like published ones; what they say is noise.
"""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def write_llama(
    path: Path,
    *,
    n_embd: int = 64,
    n_ff: Sequence[int] = (128,) * 4,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_vocab: int = 320,
    n_ctx_train: int = 4096,
    tied: bool = False,
    rope_freqs: bool = False,
    quant: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.Q8_0,
    seed: int = 1,
) -> Path:
    """A llama with `len(n_ff)` layers and a byte vocabulary; a deci where layers differ in width.

    `n_vocab` is at least 259: unknown, begin, end and the 256 bytes; the rest are words.
    """
    random = np.random.default_rng(seed)
    head = n_embd // n_head
    writer = gguf.GGUFWriter(path, "llama" if len(set(n_ff)) == 1 else "deci")
    writer.add_name(f"tiny llama of {len(n_ff)} layers")
    writer.add_block_count(len(n_ff))
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(list(n_ff))
    writer.add_head_count([n_head] * len(n_ff))
    writer.add_head_count_kv([n_head_kv] * len(n_ff))
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(n_vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    _add_vocab(writer, n_vocab)

    def add(name: str, *shape: int) -> None:
        weights = random.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[-1]).astype(np.float32)
        _add_quantised(writer, name, weights, quant)

    def add_norm(name: str, n: int) -> None:
        writer.add_tensor(name, np.ones(n, np.float32))

    add("token_embd.weight", n_vocab, n_embd)
    add_norm("output_norm.weight", n_embd)
    if not tied:
        add("output.weight", n_vocab, n_embd)
    if rope_freqs:
        writer.add_tensor("rope_freqs.weight", np.ones(head // 2, np.float32))
    for i, width in enumerate(n_ff):
        add_norm(f"blk.{i}.attn_norm.weight", n_embd)
        add(f"blk.{i}.attn_q.weight", n_embd, n_embd)
        add(f"blk.{i}.attn_k.weight", n_head_kv * head, n_embd)
        add(f"blk.{i}.attn_v.weight", n_head_kv * head, n_embd)
        add(f"blk.{i}.attn_output.weight", n_embd, n_embd)
        add_norm(f"blk.{i}.ffn_norm.weight", n_embd)
        add(f"blk.{i}.ffn_gate.weight", width, n_embd)
        add(f"blk.{i}.ffn_up.weight", width, n_embd)
        add(f"blk.{i}.ffn_down.weight", n_embd, width)
    _finish(writer)
    return path


def write_120m(path: Path) -> Path:
    """About 120 million weights at Q8_0, the size the throughput figures are given for."""
    return write_llama(
        path, n_embd=768, n_ff=(2048,) * 12, n_head=12, n_head_kv=4, n_vocab=32000, n_ctx_train=8192, seed=7
    )


def _add_vocab(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    """A SentencePiece vocabulary that can write any text, byte by byte if need be."""
    words = [f"\u2581w{i}" for i in range(n_vocab - 259)]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(words))])
    writer.add_token_types(
        [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(words)]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _add_quantised(
    writer: gguf.GGUFWriter, name: str, weights: Array, quant: gguf.GGMLQuantizationType
) -> None:
    block, _ = gguf.GGML_QUANT_SIZES[quant]
    if weights.shape[-1] % block:
        writer.add_tensor(name, weights)
    else:
        writer.add_tensor(name, gguf.quantize(weights, quant), raw_dtype=quant)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
