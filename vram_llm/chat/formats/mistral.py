"""[TOOL_CALLS], with a list of objects (Nemo, tokenizer v3) or NAME[ARGS]{...} (v11 and later).

Source: the chat templates of mistralai/Mistral-Nemo-Instruct-2407, Mistral-Small-3.2-24B-Instruct-2506 and
Ministral-3-14B-Reasoning-2512. Ids are nine letters or digits; the templates refuse any other.
"""

from hashlib import blake2s
from secrets import choice
from string import ascii_letters, digits

from vram_llm.chat.formats.call_json import CallOutcome, call_list, is_name, json_call
from vram_llm.chat.reader import SPACE, Reader, Wait

CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_ID_LENGTH = 9
_ALPHABET = ascii_letters + digits


def mistral(r: Reader) -> Wait[None]:
    """Content, and calls after their marks."""
    while (yield from r.until(CALLS, to=r.content)):
        r.mark()
        in_list = (yield from r.spaces()) in ("[", "{")
        outcome = yield from (call_list(r) if in_list else _named_call(r))
        if outcome is CallOutcome.NONE:
            r.back()
            r.content(CALLS)
        elif outcome is CallOutcome.BROKEN:
            yield from r.rest(r.arguments)


def _named_call(r: Reader) -> Wait[CallOutcome]:
    header = yield from r.short(ARGS, CALL_ID)
    if header is None or not is_name(name := header[0].strip(SPACE)):
        return CallOutcome.NONE
    if header[1] == CALL_ID and not (yield from r.short(ARGS)):
        return CallOutcome.NONE
    if (yield from r.spaces()) != "{":
        return CallOutcome.NONE
    return (yield from json_call(r, name))


def new_id() -> str:
    """An id for a call."""
    return "".join(choice(_ALPHABET) for _ in range(_ID_LENGTH))


def fitting_id(given: str) -> str:
    """An id of the chat in the form of the templates; equal ids stay equal."""
    if len(given) == _ID_LENGTH and given.isascii() and given.isalnum():
        return given
    return blake2s(given.encode("utf-8", "replace")).hexdigest()[:_ID_LENGTH]
