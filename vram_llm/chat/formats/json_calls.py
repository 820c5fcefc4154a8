"""Calls whose arguments are one JSON object, between marks that differ from model to model.

`objects` reads calls that are JSON objects of a name and arguments; `named` reads a name, then its arguments.
"""

from collections.abc import Callable

from vram_llm.chat.formats.call_json import CallOutcome, call_list, call_object, is_name
from vram_llm.chat.reader import SPACE, ParseFunction, Reader, Wait

_FENCE = "```"
_Read = Callable[[Reader], Wait[CallOutcome]]


def objects(
    *openings: str, closing: str = "", skipped: tuple[str, ...] = (), read: _Read = call_list
) -> ParseFunction:
    """Content, and after each opening an object, several objects, or a list of objects.

    `closing` may be missing from the text. `skipped` are marks that are not content. `read` reads one object
    or a list.
    """

    def parse(r: Reader) -> Wait[None]:
        while marker := (yield from r.until(*openings, *skipped, to=r.content)):
            if marker in skipped:
                continue
            r.mark()
            yield from r.spaces()
            if (yield from r.take(f"{_FENCE}json")):
                yield from r.spaces()
            outcome = yield from read(r)
            if outcome is CallOutcome.NONE:
                r.back()
                r.content(marker)
                continue
            while outcome is CallOutcome.WHOLE and (yield from r.spaces()) == "{":
                outcome = yield from _another(r)
            yield from _end(r, outcome, closing)

    return parse


def _another(r: Reader) -> Wait[CallOutcome]:
    r.mark()
    outcome = yield from call_object(r)
    if outcome is CallOutcome.NONE:
        r.back()
    return outcome


def _end(r: Reader, outcome: CallOutcome, closing: str) -> Wait[None]:
    if outcome is CallOutcome.BROKEN:
        yield from (r.until(closing, to=r.arguments) if closing else r.rest(r.arguments))
        return
    if closing:
        while (yield from r.spaces()) == "}":  # small models often write one brace too many
            yield from r.take("}")
        yield from r.take(_FENCE)
        yield from r.take(closing)


def named(
    *openings: str,
    name_end: str,
    closing: str,
    skipped: tuple[str, ...] = (),
    name_of: Callable[[str], str] = str.strip,
) -> ParseFunction:
    """Content, and after each opening a name, `name_end`, arguments, and `closing`, which may be missing.

    `name_of` gets the text before `name_end` and returns the function's name.
    """

    def parse(r: Reader) -> Wait[None]:
        while marker := (yield from r.until(*openings, *skipped, to=r.content)):
            if marker in skipped:
                continue
            r.mark()
            header = yield from r.short(name_end)
            if header is None or not is_name(name := name_of(header[0].strip(SPACE))):
                r.back()
                r.content(marker)
                continue
            if (yield from r.spaces()) != "{" and not (yield from r.comes(closing)):
                r.back()
                r.content(marker)
                continue
            yield from _named_arguments(r, name, closing)

    return parse


def _named_arguments(r: Reader, name: str, closing: str) -> Wait[None]:
    r.start_call(name)
    if (yield from r.take(closing)):
        r.arguments("{}")
        r.end_call()
    elif (yield from r.json(r.arguments)):
        r.end_call()
        yield from r.spaces()
        yield from r.take(closing)
    else:
        yield from r.until(closing, to=r.arguments)
