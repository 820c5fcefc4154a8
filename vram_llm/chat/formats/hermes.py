"""<tool_call>{"name": ..., "arguments": {...}}</tool_call>: Hermes 2 and 3, Qwen 2.5 and 3, and many more.

Source: the chat templates of NousResearch/Hermes-3-Llama-3.1-8B and Qwen/Qwen3-0.6B.
"""

from vram_llm.chat.formats.call_json import Outcome, call_object
from vram_llm.chat.reader import Reader, Wait

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def hermes(r: Reader) -> Wait[None]:
    """Content, and calls between tags anywhere in it."""
    while (yield from r.until(OPEN, to=r.content)):
        r.mark()
        yield from r.spaces()
        outcome = yield from call_object(r)
        if outcome is Outcome.NONE:
            r.back()
            r.content(OPEN)
        elif outcome is Outcome.BROKEN:
            yield from r.until(CLOSE, to=r.arguments)
        else:
            while (yield from r.spaces()) == "}":  # one brace too many is a habit of small models
                yield from r.take("}")
            yield from r.take(CLOSE)
