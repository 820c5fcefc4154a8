"""Server-sent events: a reply as it is made.

One event of the engine is one chunk on the wire, and its text is all that is encoded for it: the rest of a
chunk is the same bytes every time, made once.
"""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vram_llm.errors import VramLLMError
from vram_llm.server.errors import error_body, error_response
from vram_llm.server.generation import while_connected
from vram_llm.server.replies import ReplyHead, Tally

log = logging.getLogger(__name__)
DONE = b"data: [DONE]\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the stream back
]
_encode = msgspec.json.encode
Item = TypeVar("Item")
Read = TypeVar("Read", contravariant=True)


class Writer(Protocol[Read]):
    """What turns a reply, piece by piece, into bytes on the wire."""

    def opening(self) -> bytes:
        """What comes before the first piece."""

    def event(self, index: int, item: Read, /) -> bytes:
        """What is new of choice `index`."""

    def closing(self) -> bytes:
        """What comes after every choice has ended."""

    def failure(self, error: Exception) -> bytes:
        """What comes last where an error ends the reply."""


class Chunks(Generic[Item]):
    """Writes OpenAI's chunks of one reply."""

    object: ClassVar[str]
    before_text: ClassVar[bytes]
    after_text: ClassVar[bytes]
    nothing: ClassVar[bytes]

    def __init__(self, head: ReplyHead, n_choices: int, tally: Tally, *, include_usage: bool) -> None:
        facts = {
            "id": head.id,
            "object": self.object,
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.system_fingerprint,
        }
        self._head = b"data: " + _encode(facts)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._include_usage = include_usage
        self._tally = tally
        self._text_begins = [
            self._head + b'{"index":%d,' % index + self.before_text for index in range(n_choices)
        ]
        self._text_ends = self.after_text + b',"logprobs":null,"finish_reason":null}' + self._tail

    def opening(self) -> bytes:
        """What comes before the first text."""
        return b""

    def event(self, index: int, item: Item) -> bytes:
        """The chunks for `item`, none where it holds nothing to tell."""
        raise NotImplementedError

    def closing(self) -> bytes:
        """What comes after every choice has ended."""
        if not self._include_usage:
            return DONE
        usage = self._tally.usage().model_dump_json().encode()
        return self._head + b'],"usage":' + usage + b"}\n\n" + DONE

    def failure(self, error: Exception) -> bytes:
        """A data line with `error`; no [DONE] follows."""
        return b"data: " + _encode(error_body(error)) + b"\n\n"

    def text(self, index: int, text: str) -> bytes:
        """A chunk of text."""
        return self._text_begins[index] + _encode(text) + self._text_ends

    def _likely(self, index: int, text: str, logprobs: BaseModel) -> bytes:
        told = b',"logprobs":' + logprobs.model_dump_json().encode() + b',"finish_reason":null}'
        return self._text_begins[index] + _encode(text) + self.after_text + told + self._tail

    def _choice(self, index: int, what: bytes, reason: bytes = b"null") -> bytes:
        choice = b'{"index":%d,%b,"logprobs":null,"finish_reason":%b}' % (index, what, reason)
        return self._head + choice + self._tail


class EventStream(Response, Generic[Item]):
    """Sends a reply chunk by chunk.

    An error before the first event is a whole answer with its own status, made by `refuse`; later it is what
    the writer says of it. A client that goes away closes `news` at once.
    """

    def __init__(
        self,
        writer: Writer[Item],
        news: AsyncGenerator[tuple[int, Item], None],
        refuse: Callable[[Exception], Response] = error_response,
    ) -> None:
        self.background = None
        self._writer = writer
        self._news = news
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._run(scope, receive, send))

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._news) as news:
            try:
                first = await anext(news)
            except Exception as error:  # nothing is sent yet: it gets its own status
                _log(error)
                await self._refuse(error)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS[:]})
            await _send_body(send, self._writer.opening() + self._writer.event(*first))
            try:
                async for index, event in news:
                    chunk = self._writer.event(index, event)
                    if chunk:
                        await _send_body(send, chunk)
                last = self._writer.closing()
            except Exception as error:  # too late for a status: the stream's last line
                _log(error)
                last = self._writer.failure(error)
            await _send_body(send, last, more=False)


async def _send_body(send: Send, body: bytes, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _log(error: Exception) -> None:
    if not isinstance(error, VramLLMError):
        log.error("A stream failed", exc_info=error)
