"""The tokens with which a model marks the parts of a prompt that has a gap."""

from typing import NamedTuple


class FimTokens(NamedTuple):
    """Fill-in-the-middle tokens, by llama.cpp's llama_vocab_fim_*; -1: the vocabulary lacks it."""

    prefix: int = -1
    suffix: int = -1
    middle: int = -1
    pad: int = -1
    repository: int = -1
    separator: int = -1

    @property
    def can_fill(self) -> bool:
        """Whether there are those that every prompt with a gap needs."""
        return min(self.prefix, self.suffix, self.middle) >= 0
