"""A reranker's prompt: query and document as one text, like format_prompt_rerank of llama-server."""

import re
from collections.abc import Callable

from vram_llm.llama.vocab import Vocab

TEMPLATE = "tokenizer.chat_template.rerank"  # metadata key of a model with a prompt format of its own


def rerank_tokens(
    vocab: Vocab, tokenize: Callable[..., list[int]], template: str | None, query: str, document: str
) -> list[int]:
    """The prompt's tokens: by the model's template, else query and document between its special tokens.

    `tokenize` takes a text and perhaps `parse_special`, and adds no special tokens.
    """
    if template is not None:
        fields = {"query": query, "document": document}
        text = re.sub(r"\{(query|document)\}", lambda match: fields[match[1]], template)
        return tokenize(text)
    begin = [vocab.bos] if vocab.adds_bos else []
    end = [vocab.eos if vocab.eos >= 0 else vocab.sep] if vocab.adds_eos else []
    between = [vocab.sep] if vocab.adds_sep else []
    texts = [tokenize(text, parse_special=False) for text in (query, document)]
    return [*begin, *texts[0], *end, *between, *texts[1], *end]
