"""Thinking between tags, before an answer in any format."""

from vram_llm.chat.reader import Grammar, Reader, Wait


def plain(r: Reader) -> Wait[None]:
    """All of it is the answer."""
    yield from r.rest(r.content)


def thinking(opening: str, closing: str, then: Grammar, *, opened: bool) -> Grammar:
    """`opening` ... `closing`, then `then`. `opened`: the prompt has ended with the opening tag.

    Thinking that is never closed is thinking to its end.
    """

    def grammar(r: Reader) -> Wait[None]:
        r.mark()
        yield from r.spaces()
        if (yield from r.take(opening)) or opened:
            r.commit()
            yield from r.until(closing, to=r.reasoning)
        else:
            r.back()
        yield from then(r)

    return grammar
