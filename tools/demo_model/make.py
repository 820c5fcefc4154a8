"""Writes vram_llm/demo/demo.gguf: a llama with random weights, a real byte-level BPE vocabulary and ChatML.

    python tools/demo_model/make.py [--output FILE]

The same bytes come out every time, on every machine: the vocabulary is learned from corpus.txt beside this
file, and the weights are integers from NumPy's legacy generator, whose stream is frozen, written as Q8_0
blocks without any arithmetic.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus.txt"
OUTPUT = HERE.parents[1] / "vram_llm" / "demo" / "demo.gguf"

END_OF_TEXT, IM_START, IM_END = CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPACE = "\u0120"  # what byte-level BPE writes for it
Q8_0_BLOCK = 32
UNIFORM_STD = 73.3  # of integers drawn evenly from -127 to 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of the model."""

    vocab: int = 2048
    context: int = 2048
    embedding: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head: int = 32
    feed_forward: int = 320
    seed: int = 20


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by number, merges by rank, and how often the corpus uses each token."""

    tokens: list[str]
    merges: list[str]
    uses: NDArray[np.int64]


def learn_vocabulary(text: str, size: int) -> Vocabulary:
    """Byte-level BPE with GPT-2's pre-tokeniser, which llama.cpp calls "gpt-2"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator([text], trainer)
    ids: dict[str, int] = tokenizer.get_vocab()
    if len(ids) != size:
        raise SystemExit(f"corpus.txt gives {len(ids)} tokens, not {size}: it is too short")
    return Vocabulary(
        tokens=sorted(ids, key=ids.__getitem__),
        merges=_merges(tokenizer),
        uses=np.bincount(tokenizer.encode(text).ids, minlength=size),
    )


def _merges(tokenizer: Tokenizer) -> list[str]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in merges]


def random_q8_0(random: np.random.RandomState, rows: int, columns: int, std: float) -> NDArray[np.uint8]:
    """(rows, bytes per row) of Q8_0 blocks: one float16 scale, then 32 signed bytes."""
    blocks = np.empty((rows, columns // Q8_0_BLOCK), dtype=[("scale", "<f2"), ("weights", "i1", Q8_0_BLOCK)])
    blocks["scale"] = std / UNIFORM_STD
    blocks["weights"] = random.randint(-127, 128, size=(*blocks.shape, Q8_0_BLOCK))
    return blocks.view(np.uint8).reshape(rows, -1)


def output_rows(
    random: np.random.RandomState, shape: Shape, vocabulary: Vocabulary, std: float
) -> NDArray[np.uint8]:
    """Q8_0 rows that are zero but for the words and stops that the corpus uses, so that answers look
    like text and do not end by chance."""
    rows = random_q8_0(random, shape.vocab, shape.embedding, std)
    spoken = [token.startswith(SPACE) or token in (",", ".") for token in vocabulary.tokens]
    rows[~np.array(spoken) | (vocabulary.uses == 0)] = 0
    return rows


def write(path: Path, shape: Shape) -> None:
    """Write the model to `path`."""
    vocabulary = learn_vocabulary(CORPUS.read_text(encoding="utf-8"), shape.vocab)
    writer = gguf.GGUFWriter(path, "llama")
    _write_header(writer, shape)
    _write_vocabulary(writer, vocabulary)
    _write_weights(writer, shape, vocabulary)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_header(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("vram-llm demo")
    writer.add_description("Random weights: answers are noise.")
    writer.add_license("mit")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)


def _write_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    types = [
        gguf.TokenType.CONTROL if token in CONTROL else gguf.TokenType.NORMAL for token in vocabulary.tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.tokens.index(END_OF_TEXT))
    writer.add_eos_token_id(vocabulary.tokens.index(IM_END))
    writer.add_eot_token_id(vocabulary.tokens.index(IM_END))
    writer.add_pad_token_id(vocabulary.tokens.index(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def _write_weights(writer: gguf.GGUFWriter, shape: Shape, vocabulary: Vocabulary) -> None:
    random = np.random.RandomState(shape.seed)
    width, kv = shape.embedding, shape.kv_heads * shape.head
    matrices = {
        "attn_q": (width, width),
        "attn_k": (kv, width),
        "attn_v": (kv, width),
        "attn_output": (width, width),
        "ffn_gate": (shape.feed_forward, width),
        "ffn_up": (shape.feed_forward, width),
        "ffn_down": (width, shape.feed_forward),
    }

    def add(name: str, rows: NDArray[np.uint8]) -> None:
        writer.add_tensor(f"{name}.weight", rows, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))

    add("token_embd", random_q8_0(random, shape.vocab, width, std=1.0))
    for layer in range(shape.layers):
        add_norm(f"blk.{layer}.attn_norm")
        add_norm(f"blk.{layer}.ffn_norm")
        for name, (rows, columns) in matrices.items():
            add(f"blk.{layer}.{name}", random_q8_0(random, rows, columns, std=2.0 / columns**0.5))
    add_norm("output_norm")
    add("output", output_rows(random, shape, vocabulary, std=3.0 / width**0.5))


def main() -> None:
    """Write the file and say how large it is."""
    parser = argparse.ArgumentParser(description="Write the built-in demo model.")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    path: Path = parser.parse_args().output
    write(path, Shape())
    sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
