"""<|tool_call>call:NAME{KEY:<|"|>text<|"|>,KEY:1}<tool_call|>: Gemma 4.

Source: the chat template of google/gemma-4-31B-it. Keys stand bare, or between the marks of strings.
"""

import json

from vram_llm.chat.formats.arguments import as_json, string_value
from vram_llm.chat.formats.call_json import is_name
from vram_llm.chat.json_scan import MAX_DEPTH
from vram_llm.chat.reader import SPACE, Reader, Wait

OPEN, CLOSE, QUOTE = "<|tool_call>", "<tool_call|>", '<|"|>'
_CALL = "call:"


def gemma(r: Reader) -> Wait[None]:
    """Content, and calls between marks."""
    while (yield from r.until(OPEN, to=r.content)):
        r.mark()
        yield from r.spaces()
        yield from r.take(_CALL)
        header = yield from r.short("{")
        if header is None or not is_name(name := header[0].strip(SPACE)):
            r.back()
            r.content(OPEN)
            continue
        r.start_call(name)
        if (yield from _members(r, 1)):
            r.end_call()
            yield from r.spaces()
            yield from r.take(CLOSE)
        else:
            yield from r.until(CLOSE, to=r.arguments)


def _members(r: Reader, depth: int) -> Wait[bool]:
    """The members of an object, after its opening bracket."""
    r.arguments("{")
    separator = ""
    while (yield from r.spaces()) != "}":
        key = yield from _key(r)
        if key is None:
            return False
        r.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        separator = ", "
        if not (yield from _value(r, depth)):
            return False
        yield from r.spaces()
        yield from r.take(",")
    yield from r.take("}")
    r.arguments("}")
    return True


def _key(r: Reader) -> Wait[str | None]:
    if (yield from r.take(QUOTE)):
        quoted = yield from r.short(QUOTE)
        yield from r.spaces()
        return quoted[0] if quoted and (yield from r.take(":")) else None
    header = yield from r.short(":")
    return header[0].strip(SPACE).strip('"') if header else None


def _value(r: Reader, depth: int) -> Wait[bool]:
    char = yield from r.spaces()
    if (yield from r.take(QUOTE)):
        return bool((yield from string_value(r, QUOTE)))
    if char == '"':
        return (yield from r.json(r.arguments))
    if char in ("{", "[") and depth == MAX_DEPTH:
        return False
    if (yield from r.take("{")):
        return (yield from _members(r, depth + 1))
    if (yield from r.take("[")):
        return (yield from _items(r, depth + 1))
    word = yield from r.word()
    if not word or not (yield from r.peek()):  # no value, or an incomplete one
        return False
    r.arguments(as_json(word, None))
    return True


def _items(r: Reader, depth: int) -> Wait[bool]:
    r.arguments("[")
    separator = ""
    while (yield from r.spaces()) != "]":
        r.arguments(separator)
        separator = ", "
        if not (yield from _value(r, depth)):
            return False
        yield from r.spaces()
        yield from r.take(",")
    yield from r.take("]")
    r.arguments("]")
    return True
