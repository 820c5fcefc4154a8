"""OpenAI's shapes of a prompt and of an embedding's input."""

from vram_llm.errors import RequestError

Prompts = list[str | tuple[int, ...]]


def parse_prompts(given: object, n_vocab: int, field: str) -> Prompts:
    """Any of the four shapes as a list of texts or token ids. Raises RequestError naming `field`."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(text, str) for text in given):
            return list(given)
        rows = given if isinstance(given[0], list) else [given]
        if all(_are_tokens(row) for row in rows):
            for row in rows:
                check_vocabulary(row, n_vocab, field)
            return [tuple(row) for row in rows]
    raise RequestError(
        f"'{field}' must be a string, a list of strings, a list of token ids or a list of such lists, "
        "none of the lists empty",
        field,
    )


def _are_tokens(row: object) -> bool:
    return isinstance(row, list) and set(map(type, row)) == {int}


def check_vocabulary(tokens: list[int], n_vocab: int, field: str) -> None:
    """Raises RequestError for a token id that the vocabulary lacks."""
    if tokens and min(tokens) >= 0 and max(tokens) < n_vocab:
        return
    for token in tokens:
        if not 0 <= token < n_vocab:
            raise RequestError(
                f"Token {token} in '{field}' is not in the vocabulary: the last is {n_vocab - 1}", field
            )
