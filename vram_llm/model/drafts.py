"""Whether a model can guess tokens for another, as far as their headers tell."""

from vram_llm.model.gguf import SkippedArray
from vram_llm.model.header import Header

MOST_MORE_TOKENS = 128  # SPEC_VOCAB_MAX_SIZE_DIFFERENCE of common/speculative.cpp: padding differs
_TOKENS = "tokenizer.ggml.tokens"
_SAME = {
    "tokenizer.ggml.model": "its tokenizer is of another kind",
    "tokenizer.ggml.bos_token_id": "it begins texts with another token",
    "tokenizer.ggml.eos_token_id": "it ends texts with another token",
}


def difference(model: Header, draft: Header) -> str | None:
    """How the vocabulary of `draft` differs from that of `model`, or None. Headers do not tell all of it.

    Source: common_speculative_are_compatible in common/speculative.cpp.
    """
    for key, said in _SAME.items():
        one, other = model.metadata.get(key), draft.metadata.get(key)
        if one is not None and other is not None and one != other:
            return f"{said} ({other}, not {one})"
    sizes = [each.metadata.get(_TOKENS) for each in (model, draft)]
    counts = [each.count for each in sizes if isinstance(each, SkippedArray)]
    if len(counts) == 2 and abs(counts[0] - counts[1]) > MOST_MORE_TOKENS:
        return f"it has {counts[1]:,} tokens, not {counts[0]:,}"
    return None
