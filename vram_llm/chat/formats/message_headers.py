"""Answers that are messages, each with a header: Harmony and Muse."""

from vram_llm.chat.reader import Reader, Wait


def next_header(r: Reader, start: str, message: str) -> Wait[str | None]:
    """The header of the next message: the text from `start`, which may be missing, to `message`.

    None at the end of the text. Text without a header is content; after it, None too. `back` returns to the
    header's beginning.
    """
    if not (yield from r.peek()):
        return None
    yield from r.take(start)
    r.mark()
    header = yield from r.short(message)
    if header is None:
        r.back()
        yield from r.rest(r.content)
        return None
    return header[0]
