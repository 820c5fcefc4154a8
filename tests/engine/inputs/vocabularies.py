"""Vocabularies of few tokens, whose special tokens overlap, strip white space and end in parts of words."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import llama_cpp

from vram_llm.llama.vocab import Vocab

_WORDS = (
    "▁", "▁▁", "▁▁▁▁", "a", "b", "ab", "aa", "aab", "▁a", "▁ab", "b▁", "<", "|", ">", "end", "<|", "|>", "é",
    "éa",
)  # fmt: skip
_CONTROLS = ("<|endoftext|>", "<|end|>", "<|end", "|><|", "<|é|>", "aba")
TEXTS = (
    "\n", "\n\n", "\r", "\t", " ", "  ", "a", "b", "é", "你", "🙂", "\x02", "\x01", "▁", "<s>", "</s>",
    "<|end|>", "<|end", "|><|", "<|é|>", "aba", "<b>", "end", "<", ">", "|", "\x85", "\u00a0",
)  # fmt: skip


@contextmanager
def sentencepiece(path: Path, name: str, *, has_newline: bool, has_tab: bool = True) -> Iterator[Vocab]:
    """SentencePiece's; special tokens of a model of the `name` "phi-3" strip white space after them.

    Newlines are single bytes, or with `has_newline` tokens that merge. With `has_tab` tabs are special.
    """
    user_defined = ("<b>", "\n\n\n", "\t") if has_tab else ("<b>",)
    words = (*_WORDS, "\n", "\n\n") if has_newline else _WORDS
    kinds = gguf.TokenType
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    for add, value in (
        (writer.add_block_count, 1), (writer.add_context_length, 64), (writer.add_embedding_length, 64),
        (writer.add_feed_forward_length, 64), (writer.add_head_count, 1), (writer.add_layer_norm_rms_eps, 1),
    ):  # fmt: skip
        add(value)
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        *words,
        *_CONTROLS,
        *user_defined,
    ]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(words)]
    types += [kinds.CONTROL] * len(_CONTROLS) + [kinds.USER_DEFINED] * len(user_defined)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i % 7) for i in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with of_file(path) as vocab:
        yield vocab


@contextmanager
def of_file(path: Path) -> Iterator[Vocab]:
    """The vocabulary of a model's file, without its weights."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(bytes(path), params)
    assert model
    try:
        yield Vocab(llama_cpp.llama_model_get_vocab(model))
    finally:
        llama_cpp.llama_model_free(model)
