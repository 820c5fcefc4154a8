"""How a text's token vectors become one vector: llama_pooling_type of llama.h."""

from enum import StrEnum

from vram_llm.model.layer_memory import ArchKeys


class Pooling(StrEnum):
    """The result for a whole text."""

    NONE = "none"  # a vector for each token; no file says so
    MEAN = "mean"  # the mean of its tokens' vectors
    CLS = "cls"  # the vector of its first token
    LAST = "last"  # the vector of its last token
    RANK = "rank"  # the score of a classifier instead of a vector: how well a text answers another


NUMBERS = {Pooling.NONE: 0, Pooling.MEAN: 1, Pooling.CLS: 2, Pooling.LAST: 3, Pooling.RANK: 4}
"""llama.cpp's numbers."""

# Text encoders: the members of rules.NO_MEMORY that make embeddings.
_ENCODERS = frozenset({
    "bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert",
    "nomic-bert", "nomic-bert-moe",
})  # fmt: skip


def read_pooling(keys: ArchKeys) -> Pooling | None:
    """The file's pooling; the mean for encoders whose file names none. None: the model generates text."""
    value = keys.raw("pooling_type")
    pooling = next((pooling for pooling, number in NUMBERS.items() if number and value == number), None)
    return Pooling.MEAN if pooling is None and keys.arch in _ENCODERS else pooling
