"""Events of a stream that go from the engine's message into the client's socket at once.

Otherwise each token wakes the task that answers, and passes through its generators and through the `send` of
each middleware: on a quick model, that takes longer than to encode and to write the token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from starlette.types import Scope

from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.request import Request, TokenEvent
from vram_llm.engine.unread_events import TakeEvent
from vram_llm.server.api_keys import current_key

_PIECES = "vram_llm.pieces"  # a key of the ASGI scope's `extensions`
Item = TypeVar("Item")


class PieceWriter(Protocol):
    """Writes pieces of an answer's body, after its headers, without waiting."""

    @property
    def is_ready(self) -> bool:
        """Whether the next piece may be written: the client is there and reads."""

    def write(self, piece: bytes) -> None:
        """Write a piece, which is not empty. Call only if `is_ready`."""


def with_pieces(scope: Scope, writer: PieceWriter | None) -> Scope:
    """`scope` with this writer of pieces; None: all pieces of the body have to be sent."""
    return {**scope, "extensions": {**scope.get("extensions", {}), _PIECES: writer}}


def pieces_of(scope: Scope) -> PieceWriter | None:
    """The writer of pieces; None: there is none."""
    writer: PieceWriter | None = scope.get("extensions", {}).get(_PIECES)
    return writer


@dataclass(frozen=True, slots=True)
class DirectEvents(Generic[Item]):
    """A reply's events as they come: `offer` asks for them, `read` makes a writer's items of them."""

    offer: Callable[[TakeEvent], None]
    read: Callable[[TokenEvent], Item]


def direct_events(
    engine: Engine, requests: Sequence[Request], read: Callable[[TokenEvent], Item]
) -> DirectEvents[Item] | None:
    """The direct events of a reply. None: it has several choices, or its tokens count for a key's limits."""
    if len(requests) > 1 or not current_key.get().usage.is_unlimited:
        return None
    return DirectEvents(partial(engine.offer_events, requests[0].id), read)
