"""Whether every message of a chat has reached its prompt."""

from collections.abc import Callable
from typing import Any

from vram_llm.chat.takes import mark
from vram_llm.errors import RequestError

Messages = list[dict[str, Any]]
_SURE = 16  # characters: a text this long is not in a prompt by chance
_SHORT_CHAT = 32  # messages: longer ones are rendered again only where a text is not found


def check_arrival(
    messages: Messages, tools: Messages, prompt: str, render: Callable[[Messages], str]
) -> None:
    """Raises RequestError where a text of `messages`, or a name of `tools`, is not in their `prompt`.

    Templates trim texts, escape them, and strip the thinking from earlier answers. A text that is not found
    as it is, or is too short to be found for sure, has therefore arrived where a mark in its place arrives:
    `render` gives the prompt of messages with other texts. Thinking in `reasoning_content` may be left out.
    """
    lost = next((name for tool in tools if (name := tool["function"]["name"]) not in prompt), None)
    if lost is not None:
        raise RequestError(
            f"The model's chat template omits the tool '{lost}' in this chat; end it with a user's message",
            "tools",
        )
    at = 0
    doubtful = False
    for message in messages:
        text = (message["content"] or "").strip()
        found = prompt.find(text, at)
        if found < 0 or (0 < len(text) < _SURE and len(messages) <= _SHORT_CHAT):
            doubtful = True
            break
        at = found + len(text)
    if not doubtful:
        return
    marked = [
        {**m, "content": mark(i)} if (m["content"] or "").strip() else m for i, m in enumerate(messages)
    ]
    shown = render(marked)
    for i, message in enumerate(marked):
        if message is not messages[i] and message["content"] not in shown:
            field = f"messages[{i}]"
            raise RequestError(
                f"The model's chat template leaves out '{field}', of role '{message['role']}', in this chat; "
                "put its text into another message",
                f"{field}.content",
            )
