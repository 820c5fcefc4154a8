"""Checks that every message of a chat has reached its prompt."""

from collections.abc import Callable
from typing import Any

from vram_llm.chat.template_caps import mark
from vram_llm.errors import RequestError

Messages = list[dict[str, Any]]
_SURE = 16  # characters: a text this long is not in a prompt by chance
_SHORT_CHAT = 32  # messages: a longer chat is rendered again only if a text is missing


def check_none_dropped(
    messages: Messages, tools: Messages, prompt: str, render: Callable[[Messages], str]
) -> None:
    """Raises RequestError if a text of `messages`, or a name of `tools`, is not in their `prompt`.

    Templates trim texts, escape them, and drop the thinking of earlier answers. If a text is missing, or too
    short to be found for sure, marks at its ends must arrive: `render` gives the prompt of messages with
    other texts. The beginning of an answer may be thinking, so its end is enough. `reasoning_content` may be
    left out.
    """
    lost = next((name for tool in tools if (name := tool["function"]["name"]) not in prompt), None)
    if lost is not None:
        raise RequestError(
            f"The model's chat template omits the tool '{lost}' in this chat; end it with a user's message",
            "tools",
        )
    if _all_found(messages, prompt):
        return
    shown = render([_marked(message, i) for i, message in enumerate(messages)])
    for i, message in enumerate(messages):
        begins = message["role"] == "assistant" or mark(2 * i) in shown
        if _text(message) and not (begins and mark(2 * i + 1) in shown):
            text = _text(message)
            quoted = text if len(text) <= 40 else f"{text[:40]}..."
            raise RequestError(
                f"The model's chat template leaves out message {i + 1} of this chat, of role "
                f"'{message['role']}' ({quoted!r}); put its text into another message",
                "messages",
            )


def _all_found(messages: Messages, prompt: str) -> bool:
    """Whether every text is in the prompt for sure, in order."""
    at = 0
    for message in messages:
        text = _text(message)
        start = prompt.find(text, at)
        if start < 0 or (0 < len(text) < _SURE and len(messages) <= _SHORT_CHAT):
            return False
        at = start + len(text)
    return True


def _marked(message: dict[str, Any], number: int) -> dict[str, Any]:
    text = _text(message)
    return {**message, "content": f"{mark(2 * number)}{text}{mark(2 * number + 1)}"} if text else message


def _text(message: dict[str, Any]) -> str:
    return (message["content"] or "").strip()
