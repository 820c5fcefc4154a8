"""Responses that later ones may build upon: kept in memory, the oldest forgotten first."""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vram_llm.server.responses.resource import ResponseObject
from vram_llm.server.responses.tools import AnyTool

MAX_RESPONSES = 1024
MAX_CHARS = 64 * 2**20  # of text and JSON in all of them, and bytes of images, which a chain shares


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response and the whole chat up to its end, its instructions left out."""

    response: ResponseObject
    messages: tuple[dict[str, Any], ...]
    images: dict[str, bytes]  # by the marks that stand for them in the messages
    tools: tuple[AnyTool, ...]  # that items of its input brought along
    n_chars: int  # of all but the images


class ResponseStore:
    """At most MAX_RESPONSES with MAX_CHARS between them; what was used last stays longest."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, StoredResponse] = OrderedDict()
        self._n_chars = 0
        self._holders: Counter[str] = Counter()  # how many have an image, by its mark
        self._items: dict[
            str, tuple[str, dict[str, Any]]
        ] = {}  # a response and an item of it, by the item's id

    def keep(
        self,
        response: ResponseObject,
        messages: list[dict[str, Any]],
        images: dict[str, bytes],
        tools: Sequence[AnyTool] = (),
    ) -> None:
        """Keep it, unless it alone is too large."""
        n_chars = sum(len(str(value)) for message in messages for value in message.values())
        n_chars += sum(len(each.model_dump_json()) for each in (response, *tools))
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
        """The one of that id; None where it never was, was deleted or is forgotten."""
        kept = self._kept.get(response_id)
        if kept is not None:
            with suppress(KeyError):  # another thread may have forgotten it since
                self._kept.move_to_end(response_id)
        return kept

    def find_item(self, item_id: str) -> dict[str, Any] | None:
        """The item of that id, of a response that is kept."""
        response_id, item = self._items.get(item_id, ("", None))
        return item if self.find(response_id) is not None else None

    def delete(self, response_id: str) -> bool:
        """Whether it was there."""
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
