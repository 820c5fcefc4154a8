"""Small real models: true architectures, random weights, a few hundred kilobytes to some hundred megabytes.

They load, decode and split like published models; their answers are noise.
"""

from collections.abc import Callable, Sequence
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
    faint_from: int | None = None,
    faintness: float = 0.05,
    chat_template: str | None = None,
    more: Callable[[gguf.GGUFWriter], None] = lambda _: None,
) -> Path:
    """A llama with `len(n_ff)` layers and a byte vocabulary; a deci if layers differ in width.

    The contribution of layers from `faint_from` on is scaled by `faintness`, so that a shorter model of the
    same seed, which has only the first layers, often gives the same tokens.

    `more` adds metadata.

    `n_vocab` is at least 259: unknown, begin, end and the 256 bytes; the rest are words.
    """
    random = np.random.default_rng(seed)
    head = n_embd // n_head
    writer = gguf.GGUFWriter(path, "llama" if len(set(n_ff)) == 1 else "deci")
    writer.add_name(f"tiny llama of {len(n_ff)} layers")
    _add_shape(writer, n_embd, n_ff, n_head, n_head_kv, n_vocab, n_ctx_train)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    more(writer)

    def add(name: str, *shape: int, scale: float = 1.0) -> None:
        weights = random.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[-1]).astype(np.float32)
        weights *= np.float32(scale)
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
        scale = 1.0 if faint_from is None or i < faint_from else faintness
        add_norm(f"blk.{i}.attn_norm.weight", n_embd)
        add(f"blk.{i}.attn_q.weight", n_embd, n_embd)
        add(f"blk.{i}.attn_k.weight", n_head_kv * head, n_embd)
        add(f"blk.{i}.attn_v.weight", n_head_kv * head, n_embd)
        add(f"blk.{i}.attn_output.weight", n_embd, n_embd, scale=scale)
        add_norm(f"blk.{i}.ffn_norm.weight", n_embd)
        add(f"blk.{i}.ffn_gate.weight", width, n_embd)
        add(f"blk.{i}.ffn_up.weight", width, n_embd)
        add(f"blk.{i}.ffn_down.weight", n_embd, width, scale=scale)
    _finish(writer)
    return path


def write_120m(path: Path) -> Path:
    """About 120 million weights at Q8_0, the size of the published throughput figures."""
    return write_llama(
        path, n_embd=768, n_ff=(2048,) * 12, n_head=12, n_head_kv=4, n_vocab=32000, n_ctx_train=8192, seed=7
    )


SIZES = {  # width, feed-forward width, layers, heads, heads of keys and values
    "120m": (768, 2048, 12, 12, 4),
    "240m": (1024, 4096, 16, 16, 4),
    "1b": (2048, 8192, 16, 32, 8),
    "3b": (3072, 8192, 28, 24, 8),
    "8b": (4096, 14336, 32, 32, 8),
}


def write_sized(path: Path, size: str, n_vocab: int, seed: int = 1) -> Path:
    """A llama of one of SIZES at Q8_0. Random blocks are written directly: a gigabyte takes seconds."""
    n_embd, n_ff, n_layers, n_head, n_head_kv = SIZES[size]
    n_kv = n_embd // n_head * n_head_kv
    random, q8_0 = np.random.default_rng(seed), gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random {size}")
    _add_shape(writer, n_embd, (n_ff,) * n_layers, n_head, n_head_kv, n_vocab, 8192)
    parts = {
        "attn_q": (n_embd, n_embd), "attn_k": (n_kv, n_embd), "attn_v": (n_kv, n_embd),
        "attn_output": (n_embd, n_embd), "ffn_gate": (n_ff, n_embd), "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (n_vocab, n_embd), "output": (n_vocab, n_embd)}
    shapes |= {f"blk.{i}.{part}": shape for i in range(n_layers) for part, shape in parts.items()}
    shapes["output_norm"] = (n_embd,)
    shapes |= {f"blk.{i}.{part}_norm": (n_embd,) for i in range(n_layers) for part in ("attn", "ffn")}
    for name, shape in shapes.items():
        n_bytes = int(np.prod(shape)) // 32 * 34 if len(shape) == 2 else 4 * shape[0]
        stored = q8_0 if len(shape) == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor_info(f"{name}.weight", list(shape), np.dtype(np.float32), n_bytes, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for shape in shapes.values():
        writer.write_tensor_data(
            _drawn_blocks(random, *shape) if len(shape) == 2 else np.ones(shape, np.float32)
        )
    writer.close()
    return path


def _drawn_blocks(random: np.random.Generator, n_rows: int, n_columns: int) -> npt.NDArray[np.void]:
    """block_q8_0 of ggml-common.h, of weights with a variance of 1 / n_columns."""
    blocks = np.empty(n_rows * n_columns // 32, [("scale", "<f2"), ("weights", "i1", 32)])
    blocks["scale"] = 1 / (73.9 * np.sqrt(n_columns))  # bytes have a standard deviation of 73.9
    blocks["weights"] = np.frombuffer(random.bytes(n_rows * n_columns), np.int8).reshape(-1, 32)
    return blocks


def _add_shape(
    writer: gguf.GGUFWriter,
    n_embd: int,
    n_ff: Sequence[int],
    n_head: int,
    n_head_kv: int,
    n_vocab: int,
    n_ctx_train: int,
) -> None:
    writer.add_block_count(len(n_ff))
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(list(n_ff))
    writer.add_head_count([n_head] * len(n_ff))
    writer.add_head_count_kv([n_head_kv] * len(n_ff))
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // n_head)
    writer.add_vocab_size(n_vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    _add_vocab(writer, n_vocab)


def _add_vocab(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    """A SentencePiece vocabulary that can write any text, byte by byte if needed."""
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
