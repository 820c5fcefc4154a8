"""DeepSeek's calls between marks of their own: V3, V3.1, R1 and its distillations.

Source: the chat templates of deepseek-ai/DeepSeek-R1-0528 (function, mark, name, then a fenced JSON block)
and DeepSeek-V3.1 (name, mark, JSON).
"""

from vram_llm.chat.formats.call_json import CallOutcome, is_name, json_call
from vram_llm.chat.reader import SPACE, Reader, Wait

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEP = "<｜tool▁sep｜>"
_FENCE = "```"


def deepseek(r: Reader) -> Wait[None]:
    """Content, and calls after their marks; the outer mark may be missing."""
    while opening := (yield from r.until(CALLS, CALL, to=r.content)):
        r.mark()
        if opening == CALLS:
            yield from r.spaces()
            yield from r.take(CALL)
        outcome = yield from _call(r)
        if outcome is CallOutcome.NONE:
            r.back()
            r.content(opening)
        elif outcome is CallOutcome.BROKEN:
            yield from r.until(CALL_END, CALLS_END, to=r.arguments)
        else:
            yield from r.spaces()
            yield from r.take(_FENCE)
            yield from r.spaces()
            yield from r.take(CALL_END)
            yield from r.spaces()
            yield from r.take(CALLS_END)


def _call(r: Reader) -> Wait[CallOutcome]:
    header = yield from r.short(SEP)
    if header is None:
        return CallOutcome.NONE
    name = header[0].strip(SPACE)
    if name == "function" and (yield from r.spaces()) != "{":
        fenced = yield from r.short(_FENCE)
        if fenced is None:
            return CallOutcome.NONE
        name = fenced[0].strip(SPACE)
        yield from r.take("json")
    if not is_name(name) or (yield from r.spaces()) != "{":
        return CallOutcome.NONE
    return (yield from json_call(r, name))
