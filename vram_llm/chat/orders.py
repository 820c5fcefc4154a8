"""System and developer messages, and messages of one role in a row, in a chat template's form.

A template may not know a role, may show one message at the front and silently drop the others, or may refuse
messages that do not alternate between user and assistant.
"""

from enum import Enum, auto
from itertools import groupby
from typing import Any

from vram_llm.chat.takes import Takes

Messages = list[dict[str, Any]]
_BETWEEN = "\n\n"


class Orders(Enum):
    """Where system and developer messages go."""

    IN_PLACE = auto()  # at the client's places, as far as the template shows them there
    FRONT = auto()  # joined into the first message
    USER = auto()  # joined into the first message, as the user's


def ways(messages: Messages) -> tuple[Orders, ...]:
    """The settings that differ for these messages, the best first."""
    if not any(map(is_order, messages)):
        return (Orders.IN_PLACE,)
    if any(map(is_order, messages[_front(messages) :])):
        return tuple(Orders)
    return (Orders.IN_PLACE, Orders.USER)


def with_orders(messages: Messages, takes: Takes, way: Orders) -> Messages:
    """`messages` with every system and developer message where the template shows it, in their order.

    Several at the front are joined if the template shows only one. Later ones become user messages if it
    shows none there. All become user messages if it knows no system messages.
    """
    if not (takes.developer and (takes.developer_and_system or _roles(messages) <= {"developer"})):
        messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    if way is not Orders.IN_PLACE:
        messages = sorted(messages, key=lambda message: not is_order(message))
    front = _front(messages)
    first, others = messages[:front], messages[front:]
    if len(first) > 1 and not (takes.systems and way is Orders.IN_PLACE):
        first = [{**first[0], "content": _joined(first)}]
    if not takes.system or way is Orders.USER:
        first = [{**message, "role": "user"} for message in first]
    if not takes.late_system:
        others = [{**message, "role": "user"} if is_order(message) else message for message in others]
    return _in_turn([*first, *others], takes)


def is_order(message: dict[str, Any]) -> bool:
    """Whether it is a system or developer message."""
    return message["role"] in ("system", "developer")


def _front(messages: Messages) -> int:
    """The number of system and developer messages before every other message."""
    return next((i for i, message in enumerate(messages) if not is_order(message)), len(messages))


def _roles(messages: Messages) -> set[str]:
    """The roles of the system and developer messages."""
    return {message["role"] for message in messages if is_order(message)}


def _in_turn(messages: Messages, takes: Takes) -> Messages:
    """Messages of one role in a row, joined if the template takes only one.

    A user message right after a result joins the result if the template refuses it there. If the assistant
    must not be first, an empty user message comes before it.
    """
    joins = {"user": not takes.users, "assistant": not takes.assistants}
    out: Messages = []
    for role, group in groupby(messages, lambda m: "calls" if m.get("tool_calls") else m["role"]):
        row = list(group)
        if len(row) > 1 and joins.get(role):
            row = [{**row[-1], "content": _joined(row)}]
        if role == "user" and out and out[-1]["role"] == "tool" and not takes.user_after_result:
            result = out.pop()
            row = [{**result, "content": _joined([result, *row])}]
        out += row
    front = _front(out)
    if out[front:] and out[front]["role"] == "assistant" and not takes.assistant_first:
        out.insert(front, {"role": "user", "content": ""})
    return out


def _joined(messages: Messages) -> str:
    return _BETWEEN.join(message["content"] for message in messages if message["content"])
