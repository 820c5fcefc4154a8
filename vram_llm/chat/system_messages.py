"""System and developer messages, and messages of one role in a row, in a chat template's form.

A template may not know a role, may show one message at the front and silently drop the others, or may refuse
messages that do not alternate between user and assistant.
"""

from enum import Enum, auto
from itertools import groupby
from typing import Any

from vram_llm.chat.template_caps import TemplateCaps

Messages = list[dict[str, Any]]
_BETWEEN = "\n\n"


class SystemPlacement(Enum):
    """Where system and developer messages go."""

    IN_PLACE = auto()  # at the client's places, as far as the template shows them there
    FRONT = auto()  # joined into the first message
    USER = auto()  # joined into the first message, as the user's


def placements(messages: Messages) -> tuple[SystemPlacement, ...]:
    """The settings that differ for these messages, the best first."""
    if not any(map(is_system, messages)):
        return (SystemPlacement.IN_PLACE,)
    if any(map(is_system, messages[_front(messages) :])):
        return tuple(SystemPlacement)
    return (SystemPlacement.IN_PLACE, SystemPlacement.USER)


def place_system_messages(messages: Messages, caps: TemplateCaps, placement: SystemPlacement) -> Messages:
    """`messages` with every system and developer message where the template shows it, in their order.

    Several at the front are joined if the template shows only one. Later ones become user messages if it
    shows none there. All become user messages if it knows no system messages.
    """
    if not (caps.developer_role and (caps.developer_and_system or _roles(messages) <= {"developer"})):
        messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    if placement is not SystemPlacement.IN_PLACE:
        messages = sorted(messages, key=lambda message: not is_system(message))
    front = _front(messages)
    first, others = messages[:front], messages[front:]
    if len(first) > 1 and not (caps.two_system_messages and placement is SystemPlacement.IN_PLACE):
        first = [{**first[0], "content": _joined(first)}]
    if not caps.system_role or placement is SystemPlacement.USER:
        first = [{**message, "role": "user"} for message in first]
    if not caps.late_system_message:
        others = [{**message, "role": "user"} if is_system(message) else message for message in others]
    return _in_turn([*first, *others], caps)


def is_system(message: dict[str, Any]) -> bool:
    """Whether it is a system or developer message."""
    return message["role"] in ("system", "developer")


def _front(messages: Messages) -> int:
    """The number of system and developer messages before every other message."""
    return next((i for i, message in enumerate(messages) if not is_system(message)), len(messages))


def _roles(messages: Messages) -> set[str]:
    """The roles of the system and developer messages."""
    return {message["role"] for message in messages if is_system(message)}


def _in_turn(messages: Messages, caps: TemplateCaps) -> Messages:
    """Messages of one role in a row, joined if the template takes only one.

    A user message right after a result joins the result if the template refuses it there. If the assistant
    must not be first, an empty user message comes before it.
    """
    joins = {"user": not caps.consecutive_users, "assistant": not caps.consecutive_assistants}
    out: Messages = []
    for role, group in groupby(messages, lambda m: "calls" if m.get("tool_calls") else m["role"]):
        row = list(group)
        if len(row) > 1 and joins.get(role):
            row = [{**row[-1], "content": _joined(row)}]
        if role == "user" and out and out[-1]["role"] == "tool" and not caps.user_after_result:
            result = out.pop()
            row = [{**result, "content": _joined([result, *row])}]
        out += row
    front = _front(out)
    if out[front:] and out[front]["role"] == "assistant" and not caps.assistant_first:
        out.insert(front, {"role": "user", "content": ""})
    return out


def _joined(messages: Messages) -> str:
    return _BETWEEN.join(message["content"] for message in messages if message["content"])
