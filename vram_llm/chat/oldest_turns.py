"""Which of a chat's messages may be dropped so that its prompt fits the context, and the chat without them.

A turn is a run of user messages and everything up to the next run that follows an answer: its calls, their
results, the answer. Turns are dropped whole, the oldest first. System and developer messages are kept
wherever they are, and so is the last turn.
"""

from typing import Any

from vram_llm.chat.system_messages import is_system

Messages = list[dict[str, Any]]


def cuts(messages: Messages, n_bytes: int) -> list[int]:
    """Places where the chat may begin, the earliest first: indexes of first messages of turns.

    There are at least `n_bytes` bytes of text between two of them, but for the last. They depend on the
    messages before them alone: later requests of a chat are cut at the same place until it no longer
    suffices, so that their prompts begin alike and the prefix cache has that beginning.
    """
    starts = _turn_starts(messages)[1:]
    found, filled, done = [], 0, 0
    for start in starts:
        filled += sum(map(_n_bytes, messages[done:start]))
        done = start
        if filled >= n_bytes or start == starts[-1]:
            found.append(start)
            filled = 0
    return found


def without_oldest(messages: Messages, start: int) -> Messages:
    """The chat from message `start` on, with the system and developer messages before it."""
    return [message for i, message in enumerate(messages) if i >= start or is_system(message)]


def _turn_starts(messages: Messages) -> list[int]:
    """The index of each turn's first message."""
    starts, last_role = [], ""
    for i, message in enumerate(messages):
        if is_system(message):
            continue
        role = message["role"]
        if not last_role or (role == "user" and last_role == "assistant"):
            starts.append(i)
        last_role = role
    return starts


def _n_bytes(message: dict[str, Any]) -> int:
    """The bytes of a message: its text and its calls' arguments. Templates leave out old thinking."""
    calls = message.get("tool_calls") or ()
    texts = [message["content"] or "", *(call["function"]["arguments"] for call in calls)]
    return sum(len(text.encode("utf-8", "replace")) for text in texts)
