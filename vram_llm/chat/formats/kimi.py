"""Calls named functions.NAME:INDEX between marks of their own: Kimi K2.

Source: the chat template of moonshotai/Kimi-K2-Instruct. INDEX counts the calls of a chat from 0.
"""

import re

from vram_llm.chat.formats.json_calls import named

CALLS, CALLS_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
ARGUMENTS = "<|tool_call_argument_begin|>"
MARKS = (CALLS, CALLS_END, CALL, CALL_END, ARGUMENTS)
_INDEX = re.compile(r":.*")  # no name has a colon


def _name(header: str) -> str:
    return _INDEX.sub("", header.removeprefix("functions."))


kimi = named(CALL, name_end=ARGUMENTS, closing=CALL_END, skipped=(CALLS, CALLS_END, CALL_END), name_of=_name)
