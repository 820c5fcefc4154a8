"""Places where a chat may be cut."""

from typing import Any

import pytest

from vram_llm.chat.oldest_turns import cuts, without_oldest

CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}


def chat(roles: str) -> list[dict[str, Any]]:
    """A message for each letter: system, developer, user, assistant, call, tool; each has ten bytes."""
    names = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "c": "assistant", "t": "tool"}
    messages = []
    for i, letter in enumerate(roles):
        message: dict[str, Any] = {"role": names[letter], "content": f"{letter} {i:8}"}
        messages.append({**message, "tool_calls": [CALL]} if letter == "c" else message)
    return messages


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("u", []),
        ("su", []),
        ("uau", [2]),
        ("suauau", [3, 5]),
        ("auau", [1, 3]),  # a greeting is a turn
        ("uctctau", [6]),  # calls go with their results
        ("uctau", [4]),
        ("uctuau", [5]),  # a user's text after a result belongs to the result's turn
        ("uuauu", [3]),  # users in a row are one turn
        ("uasuad", [3]),
        ("uctct", []),  # the last turn is whole
        ("uaua", [2]),  # and has the answer that is continued
    ],
)
def test_cuts_are_between_turns(roles: str, expected: list[int]) -> None:
    assert cuts(chat(roles), 1) == expected


def test_cuts_are_apart_and_stay_where_they_are() -> None:
    """There are 40 bytes or more between two, but for the last. A longer chat keeps the earlier ones."""
    assert cuts(chat("uauauauauau"), 40) == [4, 8, 10]
    assert cuts(chat("uauauauauauauau"), 40) == [4, 8, 12, 14]


def test_arguments_of_calls_count() -> None:
    assert cuts(chat("uctauau"), 50) == [4, 6]


def test_system_messages_stay() -> None:
    messages = chat("suasuadu")
    assert without_oldest(messages, 7) == [messages[i] for i in (0, 3, 6, 7)]
