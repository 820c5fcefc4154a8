"""<TOOLCALL>[{"name": ..., "arguments": {...}}, ...]</TOOLCALL>: NVIDIA Nemotron 1 and Nano 2.

Source: the chat template of nvidia/NVIDIA-Nemotron-Nano-9B-v2. Nemotron 3 writes as Qwen3-Coder does.
"""

from vram_llm.chat.formats.call_json import Outcome, call_list
from vram_llm.chat.reader import Reader, Wait

OPEN, CLOSE = "<TOOLCALL>", "</TOOLCALL>"


def nemotron(r: Reader) -> Wait[None]:
    """Content, and lists of calls between tags."""
    while (yield from r.until(OPEN, to=r.content)):
        r.mark()
        yield from r.spaces()
        outcome = yield from call_list(r)
        if outcome is Outcome.NONE:
            r.back()
            r.content(OPEN)
        elif outcome is Outcome.BROKEN:
            yield from r.until(CLOSE, to=r.arguments)
        else:
            yield from r.spaces()
            yield from r.take(CLOSE)
