"""<|tool_call_start|>[NAME(KEY='text', KEY=1), ...]<|tool_call_end|>: Liquid's LFM2 and LFM2.5.

Source: the chat template of LiquidAI/LFM2.5-8B-A1B. It writes strings without escaping their quotation marks,
so a mark ends a string only if the call continues after it. The template of LFM2-8B-A1B writes no calls at
all; `write_calls` does.
"""

import json
import re
from collections.abc import Iterable
from itertools import starmap
from typing import Any

from vram_llm.chat.formats.arguments import ArgumentWriter, escaped
from vram_llm.chat.formats.python_literal import json_of, unescaped
from vram_llm.chat.reader import SPACE, Reader, Wait

OPEN, CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"
_NAME = re.compile(r"[\w.-]+")
_KEY = re.compile(r"[^\W\d]\w*")
_DIGITS = {"x": 2, "u": 4, "U": 8}  # of an escape


def lfm2(r: Reader) -> Wait[None]:
    """Content, and lists of calls between marks."""
    while (yield from r.until(OPEN, to=r.content)):
        r.mark()
        yield from r.spaces()
        yield from r.take("[")
        called = False
        while name := (yield from _name(r)):
            called = True
            r.start_call(name)
            if not (yield from _arguments(r, ArgumentWriter(r, {}))):
                break
            if (yield from r.spaces()) != "," or not (yield from r.take(",")):
                break
            r.mark()
        if not called:
            r.back()
            r.content(OPEN)
            continue
        r.commit()
        yield from r.until(CLOSE, to=lambda _: None)


def _name(r: Reader) -> Wait[str]:
    yield from r.spaces()
    header = yield from r.short("(")
    name = header[0].strip(SPACE) if header else ""
    return name if _NAME.fullmatch(name) else ""


def _arguments(r: Reader, writer: ArgumentWriter) -> Wait[bool]:
    """Arguments up to the closing bracket; False if other text comes, or the text ends."""
    while not (yield from r.take_after_spaces(")")):
        header = yield from r.short("=")
        if header is None or not _KEY.fullmatch(key := header[0].strip(SPACE)):
            return False
        writer.key(key)
        quote = yield from r.spaces()
        whole = yield from (_string(r, quote) if quote in ("'", '"') and quote else _value(r))
        if not whole:
            return False
        yield from r.take_after_spaces(",")
    writer.close()
    return True


def _string(r: Reader, quote: str) -> Wait[bool]:
    """Write a string piece by piece."""
    yield from r.take(quote)
    r.arguments('"')
    while marker := (yield from r.until(quote, "\\", to=lambda text: r.arguments(escaped(text)))):
        if marker == "\\":
            text = yield from _escape(r)
            r.arguments(escaped(unescaped(text)))
        elif (yield from _ends_here(r)):
            r.arguments('"')
            return True
        else:
            r.arguments(escaped(quote))
    return False


def _escape(r: Reader) -> Wait[str]:
    """An escape, from its backslash on, with the other half of a surrogate pair."""
    text = "\\" + (yield from _char(r))
    for _ in range(_DIGITS.get(text[1:], 0)):
        if (yield from r.peek()) not in "0123456789abcdefABCDEF":
            break
        text += yield from _char(r)
    if text[1:3].lower() in ("ud",) and text[3:4] in "89abAB" and (yield from r.take("\\")):
        text += yield from _escape(r)
    return text


def _char(r: Reader) -> Wait[str]:
    char = yield from r.peek()
    if char:
        yield from r.take(char)
    return char


def _ends_here(r: Reader) -> Wait[bool]:
    """Whether another argument or the call's end follows a quotation mark. Reads nothing."""
    r.mark()
    char = yield from r.spaces()
    ends = char in (")", "")
    if char == "," and (yield from r.take(",")):
        yield from r.spaces()
        header = yield from r.short("=")
        ends = header is not None and _KEY.fullmatch(header[0].strip(SPACE)) is not None
    r.back()
    return ends


def _value(r: Reader) -> Wait[bool]:
    """Write a value that is not a string, up to the comma or bracket after it, which is not read."""
    text, depth, quote = "", 0, ""
    while char := (yield from r.peek()):
        if not quote and not depth and char in ",)":
            r.arguments(json_of(text.strip(SPACE)) or json.dumps(text.strip(SPACE), ensure_ascii=False))
            return True
        yield from r.take(char)
        text += char
        if char == "\\":
            text += yield from _char(r)
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            depth += (char in "([{") - (char in ")]}")
    return False


def write_calls(calls: Iterable[tuple[str, str]]) -> str:
    """Calls in the model's form, each from a name and the JSON of its arguments."""
    return f"{OPEN}[{', '.join(starmap(_written, calls))}]{CLOSE}"


def _written(name: str, arguments: str) -> str:
    members = json.loads(arguments).items()
    return f"{name}({', '.join(f'{key}={_literal(value)}' for key, value in members)})"


def _literal(value: Any) -> str:
    """A value in Python's form; texts and objects in JSON's, which reads the same."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | dict) else repr(value)
