"""Which lines of an engine's standard error an operator should read."""

import logging
import re

_LINE = re.compile(r"(WARNING|ERROR|CRITICAL) ([\w.]+): (.*)")  # as engine/worker.py formats them
_FUNCTION = re.compile(r"^\w+: +")
_DIGITS = re.compile(r"\d+")
_MOST_WORDINGS = 1000
# llama.cpp warns of these at loads and steps that are as planned, or of faults of the file's vocabulary that
# it mends: src/llama-context.cpp, llama-vocab.cpp, llama-kv-cache.cpp, llama-model-loader.cpp.
_AS_PLANNED = re.compile(
    r"control-looking token|special_\w+_id is not in special_eog_ids|special_eog_ids contains|setting token '"
    r"|is a normal token here|override '.*' to '|newline token not found|missing newline token"
    r"|mask token( is)? missing|added a (BOS|EOS) token to the prompt|n_ctx_seq \(\d+\) <"
    r"|is not divisible by n_seq_max|setting new yarn_attn_factor|using full-size SWA cache"
    r"|V embeddings have different sizes|sharing with layer|to match the shared source cache"
    r"|tensor overrides to CPU are used with mmap|model has unused tensor|cannot be offloaded to the backend"
    r"|does not have support for op .* needed for sampler|default pooling_type is|embeddings required but"
    r"|failed to find a memory slot|removing memory module entries",
    re.IGNORECASE,
)


class EngineLog:
    """Sorts the lines of one engine process: warnings and errors matter, each wording once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def sort(self, line: str) -> tuple[int, str]:
        """The level of a line, as in `logging`, and its text with its source. DEBUG: it need not be read."""
        found = _LINE.match(line)
        if found is None or _AS_PLANNED.search(found[3]):
            return logging.DEBUG, f"engine: {line}"
        wording = _DIGITS.sub("#", found[3])
        if wording in self._seen or len(self._seen) >= _MOST_WORDINGS:
            return logging.DEBUG, f"engine: {line}"
        self._seen.add(wording)
        source = "llama.cpp" if found[2].startswith("vram_llm.llama") else "engine"
        return logging.getLevelNamesMapping()[found[1]], f"{source}: {_FUNCTION.sub('', found[3])}"
