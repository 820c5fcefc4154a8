"""What a model says, taken apart: the pieces a parser makes of its text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of the thinking before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Unopened:
    """All content before was thinking: its end was marked, its beginning was not. A stream has sent it."""


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of a tool begins. `index` counts the calls of one answer from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, the text of a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call is complete: its arguments are a whole JSON object."""

    index: int


Event = Content | Reasoning | Unopened | CallStart | CallArguments | CallEnd
