"""The prompt of POST /infill: files of the repository, then the text before and after a gap.

As llama-server's format_prompt_infill (server-common.cpp) builds it, after the repository-level pattern of
Qwen2.5-Coder (arXiv 2409.12186). A long prefix is cut in steps, in addition: so its beginning stays the same
while somebody types, and is computed once.
"""

from collections.abc import Callable

from vram_llm.engine.request import Infill
from vram_llm.llama.vocab import Vocab

_REPOSITORY = "myproject\n"
_FILE = "filename\n"  # of the text around the gap
_SNIPPET = "\n\n--- snippet ---\n\n"  # before a file, for vocabularies without a token for it
_SPARE = 8  # tokens: the marks between the parts
_STEP_CHARS = 4096  # by which long texts are cut before they are tokenized
_STEPS = 8  # of tokens in a prefix

Tokenize = Callable[[str], list[int]]  # a text in which special tokens stay text


def infill_tokens(
    vocab: Vocab, infill: Infill, begun: list[int], tokenize: Tokenize, *, n_batch: int, room: int, n_ctx: int
) -> list[int]:
    """The prompt's tokens; `begun` are those of the text that the answer continues.

    `room` are the tokens to leave for the answer. The prefix keeps at most its last three quarters of a
    batch, the suffix its first quarter, and the files their last tokens that fit the rest of the context.
    """
    fim = vocab.fim
    n_around = max(min(n_batch, n_ctx - min(room, n_ctx // 2) - _SPARE), 4)
    n_prefix, n_suffix = 3 * (n_around // 4), max(0, n_around // 4 - (2 + len(begun)))
    n_files = max(0, n_ctx - n_batch - 2 * room - _SPARE)
    most_chars = n_prefix * vocab.longest_bytes
    kept = _last(tokenize(_end_of(infill.prefix, most_chars)), n_prefix, step=max(n_prefix // _STEPS, 1))
    prefix = [fim.prefix, *kept, *begun]
    suffix = [fim.suffix, *tokenize(infill.suffix[: n_suffix * vocab.longest_bytes])[:n_suffix]]
    head, tail = (suffix, prefix) if infill.suffix_first else (prefix, suffix)
    begin = [vocab.bos] if vocab.adds_bos else []
    return [*_files(vocab, infill, tokenize, n_files), *begin, *head, *tail, fim.middle]


def _files(vocab: Vocab, infill: Infill, tokenize: Tokenize, most: int) -> list[int]:
    """The last `most` tokens of the repository's name and files, which are tokenized from the last one on."""
    fim = vocab.fim
    parts = [[fim.separator, *tokenize(_FILE)]] if fim.separator >= 0 else []
    n_tokens = sum(map(len, parts))
    for name, text in reversed(infill.files):
        if n_tokens >= most:
            break
        mark = [fim.separator, *tokenize(f"{name}\n")] if fim.separator >= 0 else tokenize(_SNIPPET)
        parts.append([*mark, *tokenize(_end_of(text, (most - n_tokens) * vocab.longest_bytes))])
        n_tokens += len(parts[-1])
    if fim.repository >= 0 and n_tokens < most:
        parts.append([fim.repository, *tokenize(_REPOSITORY)])
    return _last([token for part in reversed(parts) for token in part], most)


def _end_of(text: str, most_chars: int) -> str:
    """At least the last `most_chars` characters of a text."""
    n_cut = max(len(text) - most_chars, 0)
    return text[n_cut - n_cut % _STEP_CHARS :]


def _last(tokens: list[int], n: int, *, step: int = 1) -> list[int]:
    """At most the last `n` tokens, without a number of them that is a multiple of `step`."""
    n_cut = max(len(tokens) - n, 0)
    return tokens[-(-n_cut // step) * step :]
