"""Calls in tags, one for each argument; the tags differ from model to model.

<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call> of Qwen3-Coder, and
<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke> of MiniMax, are the origins of most
others. Strings are not quoted; other values are JSON, or Python literals.
"""

import re
from dataclasses import dataclass

from vram_llm.chat.formats.arguments import ArgumentWriter, Schemas
from vram_llm.chat.formats.call_json import is_name
from vram_llm.chat.reader import SPACE, ParseFunction, Reader, Wait

_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
_CDATA, _CDATA_END = "<![CDATA[", "]]>"


@dataclass(frozen=True, slots=True)
class CallTags:
    """`call NAME head_end (parameter KEY head_end VALUE value_end)... call_end`, within `outer` tags.

    NAME and KEY end before the first quotation mark. Attributes may follow it: `string="true"` or
    `type="string"` give the type of VALUE. The outer tags may be missing. The first of `value_ends` that
    comes ends VALUE. `skipped` are marks that are not content. `newline`: a newline before VALUE is not part
    of it. `json`: tags around the arguments as one JSON object, in place of parameters.
    """

    outer: tuple[str, str] | None
    call: str
    call_end: str
    parameter: str
    value_ends: tuple[str, ...]
    head_end: str = ">"
    skipped: tuple[str, ...] = ()
    newline: bool = False
    json: tuple[str, str] | None = None


QWEN = CallTags(
    outer=("<tool_call>", "</tool_call>"),
    call="<function=",
    call_end="</function>",
    parameter="<parameter=",
    value_ends=("\n</parameter>", "</parameter>"),
    newline=True,
)


def tagged(tags: CallTags, schemas: Schemas) -> ParseFunction:
    """Content, and calls in tags anywhere in it."""
    openings = (*([tags.outer[0]] if tags.outer else []), tags.call)

    def parse(r: Reader) -> Wait[None]:
        while marker := (yield from r.until(*openings, *tags.skipped, to=r.content)):
            if marker in tags.skipped:
                continue
            r.mark()
            name = yield from _name(r, tags, marker)
            if name is None:
                r.back()
                r.content(marker)
                continue
            yield from call(r, tags, name, schemas)

    return parse


def call(r: Reader, tags: CallTags, name: str, schemas: Schemas) -> Wait[None]:
    """The call of `name` from its first parameter on, and the outer tag that ends it."""
    r.start_call(name)
    if tags.json is not None and (yield from r.take(tags.json[0])):
        whole = yield from _json_block(r, tags.json[1], tags.call_end)
    else:
        whole = yield from _parameters(r, tags, ArgumentWriter(r, schemas.get(name, {})))
    if whole and tags.outer:
        yield from r.spaces()
        yield from r.take(tags.outer[1])


def _name(r: Reader, tags: CallTags, marker: str) -> Wait[str | None]:
    """The name, if a parameter or the call's end follows it."""
    if marker != tags.call:
        yield from r.spaces()
        if not (yield from r.take(tags.call)):
            return None
    header = yield from r.short(tags.head_end)
    if header is None or not is_name(name := _head(header[0])[0]):
        return None
    yield from r.spaces()
    follows = (tags.parameter, tags.call_end, *(tags.json[:1] if tags.json else ()))
    for tag in follows:
        if (yield from r.comes(tag)):
            return name
    return None


def _head(text: str) -> tuple[str, bool | None]:
    """A name or a key, and whether its value is a string; None without such an attribute."""
    name, quote, rest = text.partition('"')
    if not quote:
        return name.strip(SPACE), None
    attributes = dict(_ATTRIBUTE.findall(rest))
    name = name.replace("&quot;", '"').replace("&amp;", "&")
    if "string" in attributes:
        return name, attributes["string"] == "true"
    return name, attributes["type"] == "string" if "type" in attributes else None


def _parameters(r: Reader, tags: CallTags, writer: ArgumentWriter) -> Wait[bool]:
    """Parameters up to the call's end; False if other text comes, or the text ends."""
    while not (yield from r.take(tags.call_end)):
        if not (yield from r.take(tags.parameter)):
            return False
        header = yield from r.short(tags.head_end)
        if header is None:
            return False
        key, is_string = _head(header[0])
        if tags.newline:
            yield from r.take("\n")
        ends = tags.value_ends
        if (yield from r.take(_CDATA)):
            ends = tuple(_CDATA_END + end for end in ends)
        if not (yield from writer.value(key, *ends, is_string=is_string)):
            return False
        yield from r.spaces()
    writer.close()
    return True


def _json_block(r: Reader, block_end: str, call_end: str) -> Wait[bool]:
    if not (yield from r.json(r.arguments)):
        yield from r.until(block_end, to=r.arguments)
        return False
    r.end_call()
    for end in (block_end, call_end):
        yield from r.spaces()
        yield from r.take(end)
    return True
