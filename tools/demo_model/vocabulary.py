"""The model's vocabulary: byte-level BPE learned from the training texts, and ChatML's and Hermes' marks."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "<tools>", "</tools>",
)  # fmt: skip
SIZE = 2048


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokenizer, its tokens by number, and its merges by rank."""

    tokenizer: Tokenizer
    tokens: tuple[str, ...]
    merges: tuple[str, ...]

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, including its marks."""
        found: list[int] = self.tokenizer.encode(text).ids
        return found

    def touching(self, text: str, words: Iterable[str]) -> list[bool]:
        """For each token of `text`, whether it writes a part of one of `words`."""
        spans = [found.span() for word in words for found in re.finditer(re.escape(word), text)]
        offsets: list[tuple[int, int]] = self.tokenizer.encode(text).offsets
        return [any(start < to and begin < end for start, end in spans) for begin, to in offsets]

    def id_of(self, token: str) -> int:
        """The id of one token."""
        return self.tokens.index(token)


def learn(texts: Iterable[str], size: int = SIZE) -> Vocabulary:
    """Byte-level BPE with GPT-2's pre-tokeniser, which llama.cpp calls "gpt-2". Raises ValueError where the
    texts are too few for `size` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=[*CONTROL, *MARKS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    marks = (*CONTROL, *MARKS)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in marks])
    ids: dict[str, int] = tokenizer.get_vocab()
    if len(ids) != size:
        raise ValueError(f"the texts give {len(ids)} tokens, not {size}: they are too short")
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return Vocabulary(
        tokenizer, tuple(sorted(ids, key=ids.__getitem__)), tuple(" ".join(pair) for pair in merges)
    )
