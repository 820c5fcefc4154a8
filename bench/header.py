"""Time to read a header with a large vocabulary by our reader and by gguf.GGUFReader, and the ratio.

    python bench/header.py [--tokens 128000] [--repeat 5] [MODEL]

Without a model, a small one is written with a byte-level BPE vocabulary: tokens as long as words, a type for
each, and as many merges as llama 3 has tokens.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

from vram_llm.model.header_reader import read_header

_SYLLABLES = (
    "ing",
    "er",
    "on",
    "re",
    "th",
    "an",
    "al",
    "en",
    "is",
    "com",
    "pro",
    "ment",
    "tion",
    "ab",
    "qu",
    "ze",
)


def write_model(path: Path, n_tokens: int) -> None:
    """A model of one layer, with a header as large as that of a real vocabulary."""
    random.seed(0)
    tokens, merges = [], []
    for i in range(n_tokens):
        parts = random.choices(_SYLLABLES, k=random.randint(1, 4))
        tokens.append(f"{'Ġ' if i % 2 else ''}{''.join(parts)}{i}")
        merges.append(f"{parts[0]} {''.join(parts[1:])}{i}")
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(4096)
    writer.add_embedding_length(32)
    writer.add_head_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * n_tokens)
    writer.add_token_merges(merges)
    writer.add_tensor("token_embd.weight", np.zeros((1, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def best_of(repeat: int, read: Callable[[Path], object], path: Path) -> float:
    """The shortest of `repeat` readings, in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        read(path)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=128_000)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.model or Path(folder) / "vocabulary.gguf"
        if given.model is None:
            write_model(path, given.tokens)
        ours = best_of(given.repeat, read_header, path)
        theirs = best_of(1, GGUFReader, path)
    print(f"vram_llm   {ours * 1e3:9.1f} ms (best of {given.repeat})")
    print(f"GGUFReader {theirs * 1e3:9.1f} ms")
    print(f"ratio      {theirs / ours:9.0f}")


if __name__ == "__main__":
    main()
