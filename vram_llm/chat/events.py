"""The events that a parser makes of a model's text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the thinking before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class UnopenedThinking:
    """All earlier content was thinking: only its end was marked. A stream has already sent it."""


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of a tool begins. `index` counts the calls of one answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a call's arguments, the text of a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call is complete: its arguments are a whole JSON object."""

    index: int


Event = Content | Reasoning | UnopenedThinking | CallStart | CallArguments | CallEnd
