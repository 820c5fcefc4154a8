"""<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>...</tool_call>: GLM 4.5 to 4.7.

Source: the chat templates of zai-org/GLM-4.6 and GLM-4.7-Flash; the former puts newlines between the tags.
Tencent's Hy3 has a suffix in each tag, and <tool_sep> behind the name.
"""

from vram_llm.chat.formats.arguments import ArgumentWriter, Schemas
from vram_llm.chat.formats.call_json import is_name
from vram_llm.chat.reader import SPACE, ParseFunction, Reader, Wait

OPEN, CLOSE = "<tool_call>", "</tool_call>"
HY3_SUFFIXES = (":opensource", "")


def glm_marks(suffix: str = "", *, hy3: bool = False) -> tuple[str, ...]:
    """The tags of a call: its own two, then those of a key and of a value.

    Hy3 has two around calls, and one after the name, which is the last here.
    """
    names = ("tool_call", "arg_key", "arg_value", *(["tool_calls"] if hy3 else []))
    tags = [f"<{slash}{name}{suffix}>" for name in names for slash in ("", "/")]
    return (*tags, *([f"<tool_sep{suffix}>"] if hy3 else []))


def glm(schemas: Schemas, suffix: str = "", *, hy3: bool = False) -> ParseFunction:
    """Content, and calls in tags anywhere in it. `suffix` ends the name of each tag."""
    opening, closing, key_tag, key_end, value_tag, value_end, *others = glm_marks(suffix, hy3=hy3)
    separator = others.pop() if others else ""

    def parse(r: Reader) -> Wait[None]:
        while marker := (yield from r.until(opening, *others, to=r.content)):
            if marker != opening:
                continue
            r.mark()
            header = yield from r.short(key_tag, closing)
            name = header[0].strip(SPACE).removesuffix(separator).strip(SPACE) if header else None
            if header is None or not is_name(name):
                r.back()
                r.content(opening)
                continue
            r.start_call(name)
            yield from _arguments(r, ArgumentWriter(r, schemas.get(name, {})), header[1])

    def _arguments(r: Reader, writer: ArgumentWriter, marker: str) -> Wait[None]:
        """Keys and values up to the call's end, or to other text. `marker` was read last."""
        while marker == key_tag:
            key = yield from r.short(key_end)
            yield from r.spaces()
            if key is None or not (yield from r.take(value_tag)):
                return
            if not (yield from writer.value(key[0].strip(SPACE), value_end)):
                return
            yield from r.spaces()
            if not (yield from r.take(key_tag)):
                marker = closing if (yield from r.take(closing)) else ""
        if marker == closing:
            writer.close()

    return parse
