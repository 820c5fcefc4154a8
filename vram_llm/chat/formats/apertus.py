"""<|tools_prefix|>[{NAME: {...}}, ...]<|tools_suffix|>: Apertus.

Source: the chat template of swiss-ai/Apertus-8B-Instruct-2509.
"""

from vram_llm.chat.formats.call_json import CallOutcome, is_name, json_call, member
from vram_llm.chat.formats.json_calls import objects
from vram_llm.chat.reader import Reader, Wait

OPEN, CLOSE = "<|tools_prefix|>", "<|tools_suffix|>"


def _list(r: Reader) -> Wait[CallOutcome]:
    """[call, call, ...]. Returns the outcome of the first call, or of the one that broke."""
    yield from r.take("[")
    outcome = yield from _call(r)
    while outcome is CallOutcome.WHOLE and (yield from r.spaces()) == ",":
        yield from r.take(",")
        outcome = yield from _call(r)
        if outcome is CallOutcome.NONE:
            return CallOutcome.WHOLE
    yield from r.take("]")
    return outcome


def _call(r: Reader) -> Wait[CallOutcome]:
    yield from r.spaces()
    if not (yield from r.take("{")):
        return CallOutcome.NONE
    name = yield from member(r)
    if not is_name(name) or (yield from r.spaces()) != "{":
        return CallOutcome.NONE
    outcome = yield from json_call(r, name)
    if outcome is CallOutcome.WHOLE:
        yield from r.spaces()
        yield from r.take("}")
    return outcome


apertus = objects(OPEN, closing=CLOSE, read=_list)
