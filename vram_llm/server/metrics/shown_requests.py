"""The requests in flight as a client may see them."""

from collections.abc import Sequence
from dataclasses import replace

from vram_llm.engine.request_metrics import RequestSnapshot
from vram_llm.server.api_keys import current_key
from vram_llm.server.serving_context import ServingContext


def shown_requests(serving: ServingContext) -> list[RequestSnapshot]:
    """The requests in flight, by arrival.

    On a server that is open to everybody, ids of other clients' requests become "hidden-0", "hidden-1", ...:
    whoever knows a response's id may read it there.
    """
    return shown(serving.engine.activity.requests, is_stranger=serving.is_asked_by_stranger)


def shown(requests: Sequence[RequestSnapshot], *, is_stranger: bool) -> list[RequestSnapshot]:
    """These requests as a client may see them; see `shown_requests`."""
    own = current_key.get().name
    if not is_stranger:
        return list(requests)
    return [
        each if each.client == own else replace(each, id=f"hidden-{number}")
        for number, each in enumerate(requests)
    ]
