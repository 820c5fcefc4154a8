"""Small real encoders: BERT's architecture and a WordPiece vocabulary taken from a text, random weights.

They embed and rank like published encoders, with meaningless results.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import gguf
import numpy as np

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CORPUS = Path(__file__).parent / "demo_model" / "data" / "prose.txt"
_PAD, _UNKNOWN, _CLS, _SEP, _MASK = range(5)
_WORD = "\u2581"  # llama.cpp's prefix of a piece that begins a word; it has no ## before the other pieces


def word_pieces(n_vocab: int = 1024) -> list[str]:
    """An uncased WordPiece vocabulary by token id: the letters, the commonest endings and words of CORPUS."""
    words = Counter(re.findall(r"[a-z]+|[^\sa-z]", CORPUS.read_text(encoding="utf-8").lower()))
    letters = sorted({letter for word in words for letter in word})
    endings: Counter[str] = Counter()
    for word, count in words.items():
        for i in range(1, len(word) - 1):
            endings[word[i:]] += count
    known = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    ranked = sorted((-count, f"##{ending}") for ending, count in endings.items())
    common = sorted((-count, word) for word, count in words.items() if len(word) > 1)
    n_endings = (n_vocab - len(known)) // 4
    pieces = dict.fromkeys(chain(known, (piece for _, piece in (*ranked[:n_endings], *common))))
    return list(pieces)[:n_vocab]


def write_bert(
    path: Path,
    *,
    pooling: gguf.PoolingType = gguf.PoolingType.MEAN,
    n_embd: int = 64,
    n_layer: int = 2,
    n_head: int = 4,
    n_ff: int = 128,
    n_ctx_train: int = 512,
    n_vocab: int = 1024,
    pieces: Sequence[str] | None = None,
    ends_texts: bool = False,
    seed: int = 1,
) -> Path:
    """A BERT in F32; with `pooling` RANK it has a classifier of one output.

    `pieces` is the vocabulary by token id, SPECIAL first; None: word_pieces(n_vocab). With `ends_texts` each
    text of a pair ends with [SEP], as in XLM-RoBERTa's rerankers.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(f"tiny bert of {n_layer} layers")
    writer.add_block_count(n_layer)
    writer.add_context_length(n_ctx_train)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    pieces = word_pieces(n_vocab) if pieces is None else pieces
    n_vocab = len(pieces)
    _add_vocabulary(writer, pieces)
    writer.add_vocab_size(n_vocab)
    if ends_texts:
        writer.add_add_sep_token(False)
        writer.add_add_eos_token(True)

    def add(name: str, *shape: int) -> None:
        scale = np.sqrt(shape[-1]) if len(shape) > 1 else 10
        writer.add_tensor(name, random.standard_normal(shape, dtype=np.float32) / np.float32(scale))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(n_embd, np.float32))
        add(f"{name}.bias", n_embd)

    def add_matrix(name: str, rows: int, columns: int) -> None:
        add(f"{name}.weight", rows, columns)
        add(f"{name}.bias", rows)

    add("token_embd.weight", n_vocab, n_embd)
    add("token_types.weight", 2, n_embd)
    add("position_embd.weight", n_ctx_train, n_embd)
    add_norm("token_embd_norm")
    for i in range(n_layer):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add_matrix(f"blk.{i}.{name}", n_embd, n_embd)
        add_norm(f"blk.{i}.attn_output_norm")
        add_matrix(f"blk.{i}.ffn_up", n_ff, n_embd)
        add_matrix(f"blk.{i}.ffn_down", n_embd, n_ff)
        add_norm(f"blk.{i}.layer_output_norm")
    if pooling is gguf.PoolingType.RANK:
        add_matrix("cls", n_embd, n_embd)
        add_matrix("cls.output", 1, n_embd)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, pieces: Sequence[str]) -> None:
    """The vocabulary in the form of llama.cpp's converter for BERT."""
    kinds = gguf.TokenType
    tokens, types = [], []
    for piece in pieces:
        special = piece in SPECIAL
        types.append((kinds.UNKNOWN if piece == "[UNK]" else kinds.CONTROL) if special else kinds.NORMAL)
        tokens.append(piece if special else piece[2:] if piece.startswith("##") else _WORD + piece)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(2)
    writer.add_bos_token_id(_CLS)
    writer.add_eos_token_id(_SEP)
    writer.add_unk_token_id(_UNKNOWN)
    writer.add_sep_token_id(_SEP)
    writer.add_pad_token_id(_PAD)
    writer.add_mask_token_id(_MASK)
