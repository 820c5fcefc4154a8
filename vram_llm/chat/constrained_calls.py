"""How calls are read if a grammar constrains the answer, whatever the template's format is."""

import json

from vram_llm.chat.formats.call_json import CallOutcome, call_object
from vram_llm.chat.reader import ParseFunction, Reader, Wait


def read_forced_call(r: Reader) -> Wait[None]:
    """Reads the text that the grammar allows: one call, and nothing else."""
    r.mark()
    yield from r.spaces()
    outcome = yield from call_object(r)
    if outcome is CallOutcome.BROKEN:  # cut short
        yield from r.rest(r.arguments)
    elif outcome is CallOutcome.NONE:
        r.back()
        yield from r.rest(r.content)


def read_text_call(name: str) -> ParseFunction:
    """Reads a call of a tool that takes one text, if the answer is only that text."""

    def read(r: Reader) -> Wait[None]:
        yield from r.peek()
        r.start_call(name)
        r.arguments('{"input": "')
        yield from r.rest(lambda text: r.arguments(json.dumps(text, ensure_ascii=False)[1:-1]))
        r.arguments('"}')
        r.end_call()

    return read


def json_calls_between(opening: str, closing: str) -> ParseFunction:
    """Reads content, and calls that are JSON objects between two marks."""

    def read(r: Reader) -> Wait[None]:
        while (yield from r.until(opening, to=r.content)):
            r.mark()
            yield from r.spaces()
            outcome = yield from call_object(r)
            if outcome is CallOutcome.NONE:
                r.back()
                r.content(opening)
            elif outcome is CallOutcome.BROKEN:  # cut short
                yield from r.rest(r.arguments)
            else:
                yield from r.spaces()
                yield from r.take(closing)

    return read
