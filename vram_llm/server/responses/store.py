"""Responses for later requests to continue. They are kept in memory; the least recently used go first."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vram_llm.server.api_keys import current_key
from vram_llm.server.responses.response_object import ResponseObject
from vram_llm.server.responses.tools import ResponseTool

MAX_RESPONSES = 1024
MAX_CHARS = 64 * 2**20  # of all text and JSON, plus bytes of images; responses of a chain share images


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response and the whole chat up to its end, without instructions."""

    response: ResponseObject
    messages: tuple[dict[str, Any], ...]
    images: dict[str, bytes]  # by their marks in the messages
    tools: tuple[ResponseTool, ...]  # declared by items of its input
    n_chars: int  # without the images


class ResponseStore:
    """At most MAX_RESPONSES, with MAX_CHARS in total. The least recently used go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, StoredResponse] = OrderedDict()
        self._n_chars = 0
        self._holders: Counter[str] = Counter()  # number of responses with an image, by its mark
        self._items: dict[str, tuple[str, dict[str, Any]]] = {}  # (response id, item) by item id

    def keep(
        self,
        response: ResponseObject,
        messages: list[dict[str, Any]],
        images: dict[str, bytes],
        tools: Sequence[ResponseTool] = (),
    ) -> None:
        """Store a response, unless it alone is too large."""
        n_chars = sum(len(str(value)) for message in messages for value in message.values())
        n_chars += sum(len(part.model_dump_json()) for part in (response, *tools))
        if n_chars + sum(map(len, images.values())) > MAX_CHARS:
            return
        self._kept[response.id] = StoredResponse(response, tuple(messages), images, tuple(tools), n_chars)
        self._items.update({item["id"]: (response.id, item) for item in response.output})
        self._n_chars += n_chars + sum(
            len(image) for mark, image in images.items() if not self._holders[mark]
        )
        self._holders.update(images.keys())
        while len(self._kept) > MAX_RESPONSES or self._n_chars > MAX_CHARS:
            self.delete(next(iter(self._kept)))

    def find(self, response_id: str) -> StoredResponse | None:
        """The response of that id; None if it was never stored, was deleted or was dropped."""
        kept = self._kept.get(response_id)
        if kept is not None:
            with suppress(KeyError):  # another thread may have dropped it since
                self._kept.move_to_end(response_id)
        return kept

    def find_item(self, item_id: str) -> dict[str, Any] | None:
        """The item of that id, if its response is stored."""
        response_id, item = self._items.get(item_id, ("", None))
        return item if self.find(response_id) is not None else None

    def delete(self, response_id: str) -> bool:
        """Delete a response. Returns whether it was stored."""
        kept = self._kept.pop(response_id, None)
        if kept is None:
            return False
        for item in kept.response.output:
            self._items.pop(item["id"], None)
        self._holders.subtract(kept.images.keys())
        gone = [mark for mark in kept.images if not self._holders[mark]]
        self._n_chars -= kept.n_chars + sum(len(kept.images[mark]) for mark in gone)
        for mark in gone:
            del self._holders[mark]
        return True


class ResponseStores:
    """A store for each API key: no key finds, deletes or displaces another's responses."""

    def __init__(self) -> None:
        self._stores: defaultdict[int, ResponseStore] = defaultdict(ResponseStore)

    def of_request(self) -> ResponseStore:
        """The store of the key that sent the request."""
        return self._stores[current_key.get().owner]
