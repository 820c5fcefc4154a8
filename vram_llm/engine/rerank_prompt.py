"""A query and a document as the one text that a reranker scores: format_prompt_rerank of llama-server."""

import re

from vram_llm.llama.vocab import Vocab

TEMPLATE = "tokenizer.chat_template.rerank"  # the metadata of a model that was taught a form of its own


def pair(vocab: Vocab, template: str | None, query: str, document: str) -> list[int]:
    """Their tokens: by the model's template, or one after the other with its own marks around them."""
    if template is not None:
        said = {"query": query, "document": document}
        text = re.sub(r"\{(query|document)\}", lambda place: said[place[1]], template)
        return vocab.tokenize(text, add_special=False)
    begin = [vocab.bos] if vocab.adds_bos else []
    end = [vocab.eos if vocab.eos >= 0 else vocab.sep] if vocab.adds_eos else []
    between = [vocab.sep] if vocab.adds_sep else []
    asked, told = (vocab.tokenize(text, add_special=False, parse_special=False) for text in (query, document))
    return [*begin, *asked, *end, *between, *told, *end]
