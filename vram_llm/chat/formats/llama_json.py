"""{"name": ..., "parameters": {...}} as the whole answer: Llama 3.1, 3.2 and 3.3.

Source: the chat template of meta-llama/Llama-3.1-8B-Instruct. Calls have no mark, so an object is a call only
if its name is a tool's; `<|python_tag|>` may come before it. Several calls are separated by ";" or a newline.
"""

from vram_llm.chat.formats.call_json import CallOutcome, call_object
from vram_llm.chat.reader import ParseFunction, Reader, Wait

TAG = "<|python_tag|>"


def llama_json(names: frozenset[str]) -> ParseFunction:
    """Calls of `names` at the very beginning or after the tag; other text is content."""

    def parse(r: Reader) -> Wait[None]:
        r.mark()
        begins = (yield from r.spaces()) == "{"
        r.back()
        opening = "" if begins else (yield from r.until(TAG, to=r.content))
        while begins or opening:
            r.mark()
            yield from r.spaces()
            outcome = yield from call_object(r, names)
            if outcome is CallOutcome.NONE:
                r.back()
                r.content(opening)
            elif outcome is CallOutcome.BROKEN:
                yield from r.rest(r.arguments)
            else:
                yield from r.spaces()
                yield from r.take(";")
                begins = (yield from r.spaces()) == "{"
                opening = ""
                if begins:
                    continue
            begins = False
            opening = yield from r.until(TAG, to=r.content)

    return parse
