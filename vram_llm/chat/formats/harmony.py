"""Harmony, gpt-oss's format: messages on channels. A message may be addressed to a tool.

Source: the chat template of openai/gpt-oss-120b and OpenAI's guide to the format (openai/harmony,
docs/format.md). `analysis` is thinking, `final` the answer, `commentary` without a recipient a remark before
a call.
"""

import re

from vram_llm.chat.formats.call_json import is_name
from vram_llm.chat.formats.message_headers import next_header
from vram_llm.chat.reader import Reader, Wait

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
END, RETURN, CALL = "<|end|>", "<|return|>", "<|call|>"
_TO = re.compile(r"to=(\S+?)(?=\s|<|$)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_ENDS = (END, RETURN, CALL, START)


def harmony(r: Reader) -> Wait[None]:
    """One message after another. The prompt ends with "<|start|>assistant", so a header comes first."""
    while (header := (yield from next_header(r, START, MESSAGE))) is not None:
        recipient, channel = _TO.search(header), _CHANNEL.search(header)
        name = recipient[1].removeprefix("functions.") if recipient else ""
        if is_name(name) and (yield from r.spaces()) == "{":
            yield from _call(r, name)
            continue
        r.commit()
        if channel is not None and channel[1] == "analysis":
            yield from r.until(*_ENDS, to=r.reasoning)
        else:
            yield from r.until(*_ENDS, to=r.content)


def _call(r: Reader, name: str) -> Wait[None]:
    r.start_call(name)
    if (yield from r.json(r.arguments)):
        r.end_call()
        yield from r.spaces()
        for end in _ENDS:
            if (yield from r.take(end)):
                return
    else:
        yield from r.until(*_ENDS, to=r.arguments)
