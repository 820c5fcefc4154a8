"""<tool_call><function=NAME><parameter=KEY>...: Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5.

Source: the chat template of Qwen/Qwen3-Coder-30B-A3B-Instruct. The outer tag is often left out by the model.
"""

from vram_llm.chat.formats.arguments import ArgumentWriter, Schemas
from vram_llm.chat.formats.call_json import is_name
from vram_llm.chat.reader import SPACE, Grammar, Reader, Wait

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_END = "<function=", "</function>"
_PARAMETER = "<parameter="
_VALUE_ENDS = ("\n</parameter>", "</parameter>")


def qwen_xml(schemas: Schemas) -> Grammar:
    """Content, and calls in tags anywhere in it."""

    def grammar(r: Reader) -> Wait[None]:
        while opening := (yield from r.until(OPEN, FUNCTION, to=r.content)):
            r.mark()
            name = yield from _name(r, opening)
            if name is None:
                r.back()
                r.content(opening)
                continue
            r.start_call(name)
            if (yield from _arguments(r, ArgumentWriter(r, schemas.get(name, {})))):
                yield from r.spaces()
                yield from r.take(CLOSE)

    return grammar


def _name(r: Reader, opening: str) -> Wait[str | None]:
    """The name, where a parameter or the function's end follows it."""
    if opening == OPEN:
        yield from r.spaces()
        if not (yield from r.take(FUNCTION)):
            return None
    header = yield from r.short(">")
    if header is None or not is_name(name := header[0].strip(SPACE)):
        return None
    yield from r.spaces()
    return name if (yield from r.comes(_PARAMETER)) or (yield from r.comes(FUNCTION_END)) else None


def _arguments(r: Reader, writer: ArgumentWriter) -> Wait[bool]:
    """Parameters up to the function's end; False where something else comes, or the text ends."""
    while not (yield from r.take(FUNCTION_END)):
        if not (yield from r.take(_PARAMETER)):
            return False
        key = yield from r.short(">")
        if key is None:
            return False
        yield from r.take("\n")
        if not (yield from writer.value(key[0].strip(SPACE), *_VALUE_ENDS)):
            return False
        yield from r.spaces()
    writer.close()
    return True
