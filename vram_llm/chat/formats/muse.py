"""Messages to recipients. A recipient may be a tool: Muse Glimmer.

Source: its chat template in llama.cpp's collection. A message to `self` is thinking, to `user` the answer, to
a tool a call in tags.
"""

import re

from vram_llm.chat.formats.arguments import Schemas
from vram_llm.chat.formats.call_json import is_name
from vram_llm.chat.formats.message_headers import next_header
from vram_llm.chat.formats.tagged import CallTags, call
from vram_llm.chat.reader import ParseFunction, Reader, Wait

START, MESSAGE, END, TURN_END = "<|start|>", "<|message|>", "<|eom|>", "<|eot|>"
ATEM = CallTags(
    outer=("<atem:function_calls>", "</atem:function_calls>"),
    call='<atem:invoke name="',
    call_end="</atem:invoke>",
    parameter='<atem:parameter name="',
    value_ends=("</atem:parameter>",),
)
_TO = re.compile(r"to=(\S+)")
_ENDS = (END, TURN_END, START)


def muse(schemas: Schemas) -> ParseFunction:
    """One message after another. The prompt ends with "<|start|>assistant", so a header comes first."""

    def parse(r: Reader) -> Wait[None]:
        while (header := (yield from next_header(r, START, MESSAGE))) is not None:
            r.commit()
            to = _TO.search(header)
            recipient = to[1] if to else "user"
            if recipient not in ("self", "user") and (yield from _call(r, schemas)):
                continue
            yield from r.until(*_ENDS, to=r.reasoning if recipient == "self" else r.content)

    return parse


def _call(r: Reader, schemas: Schemas) -> Wait[bool]:
    assert ATEM.outer is not None
    r.mark()
    yield from r.spaces()
    if (yield from r.take(ATEM.outer[0])):
        yield from r.spaces()
        header = (yield from r.short('"')) if (yield from r.take(ATEM.call)) else None
        if header is not None and is_name(header[0]) and (yield from r.take(">")):
            yield from r.spaces()
            yield from call(r, ATEM, header[0], schemas)
            yield from r.until(*_ENDS, to=lambda _: None)
            return True
    r.back()
    return False
