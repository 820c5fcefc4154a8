"""<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>...</tool_call>: GLM 4.5 to 4.7.

Source: the chat templates of zai-org/GLM-4.6 and GLM-4.7-Flash; the former puts newlines between the tags.
"""

from vram_llm.chat.formats.arguments import ArgumentWriter, Schemas
from vram_llm.chat.formats.call_json import is_name
from vram_llm.chat.reader import SPACE, Grammar, Reader, Wait

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_KEY, _KEY_END = "<arg_key>", "</arg_key>"
_VALUE, _VALUE_END = "<arg_value>", "</arg_value>"


def glm(schemas: Schemas) -> Grammar:
    """Content, and calls in tags anywhere in it."""

    def grammar(r: Reader) -> Wait[None]:
        while (yield from r.until(OPEN, to=r.content)):
            r.mark()
            header = yield from r.short(_KEY, CLOSE)
            if header is None or not is_name(name := header[0].strip(SPACE)):
                r.back()
                r.content(OPEN)
                continue
            r.start_call(name)
            yield from _arguments(r, ArgumentWriter(r, schemas.get(name, {})), header[1])

    return grammar


def _arguments(r: Reader, writer: ArgumentWriter, marker: str) -> Wait[None]:
    """Keys and values up to the call's end, or to what is neither. `marker` was read last."""
    while marker == _KEY:
        key = yield from r.short(_KEY_END)
        yield from r.spaces()
        if key is None or not (yield from r.take(_VALUE)):
            return
        if not (yield from writer.value(key[0].strip(SPACE), _VALUE_END)):
            return
        yield from r.spaces()
        if not (yield from r.take(_KEY)):
            marker = CLOSE if (yield from r.take(CLOSE)) else ""
    if marker == CLOSE:
        writer.close()
