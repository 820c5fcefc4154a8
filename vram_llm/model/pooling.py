"""How the vectors of a text's tokens become one: llama_pooling_type of llama.h."""

from enum import StrEnum

from vram_llm.model.memory import Keys


class Pooling(StrEnum):
    """What stands for a whole text."""

    MEAN = "mean"  # of all its tokens
    CLS = "cls"  # its first token
    LAST = "last"
    RANK = "rank"  # no vector, but the score of a classifier: how well a text answers another


NUMBERS = {Pooling.MEAN: 1, Pooling.CLS: 2, Pooling.LAST: 3, Pooling.RANK: 4}
"""llama.cpp's."""

# Text encoders: the members of rules.NO_MEMORY that are there to make embeddings.
_ENCODERS = frozenset({
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert",
    "nomic-bert", "nomic-bert-moe",
})  # fmt: skip


def read_pooling(keys: Keys) -> Pooling | None:
    """What the file says; for encoders that say nothing the mean. None: the model writes text."""
    said = keys.raw("pooling_type")
    named = next((kind for kind, number in NUMBERS.items() if said == number), None)
    return Pooling.MEAN if named is None and keys.arch in _ENCODERS else named
