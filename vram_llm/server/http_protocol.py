"""HTTP/1.1 over a socket: uvicorn's httptools protocol, with limits, and with fixes for two kinds of clients.

A request that offers another protocol (Java's HttpClient sends `Upgrade: h2c` with every first request over
http://) is answered as HTTP/1.1; RFC 9110, section 7.8, allows that. On such an offer httptools stops after
the head and takes the body for the other protocol. A new parser therefore reads the head without the offer,
then the body. Bytes that are not HTTP/1.1 get an OpenAI error object.

A head that is too long or too slow, a body that stops coming and an answer that nobody reads end their
connection. If there are too many, the one that has been idle longest is closed, else the new one.
"""

import asyncio
from typing import TYPE_CHECKING, ClassVar, cast

import httptools
import msgspec
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from vram_llm.errors import Overloaded, RequestError
from vram_llm.server.api_keys import client_address
from vram_llm.server.connection_limits import ConnectionLimits
from vram_llm.server.direct_events import with_pieces
from vram_llm.server.errors import HeadTooLarge, TooSlow, error_body, error_kind
from vram_llm.server.request_log import log_refusal
from vram_llm.server.request_record import request_id

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope

_OFFER = frozenset({b"upgrade", b"http2-settings", b"connection"})
_NOT_HTTP = (
    "This is not an HTTP/1.1 request: use http:// (not https://) and HTTP/1.1, for example {where}/v1/models"
)
_LINGER_S = 5.0
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 429: b"Too Many Requests"}
_REASONS[431] = b"Request Header Fields Too Large"


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()

    _head_bytes = 0  # of a head that is not complete
    _n_body_bytes = 0  # since the last look
    _is_reading = False  # a head or a body
    _is_in_head = True
    _is_refused = False
    _timer: asyncio.TimerHandle | None = None  # of a head, of a body
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Accept a connection, or refuse it if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections and not self._close_an_idle_one():
            most = self.limits.max_connections
            self._refuse(
                Overloaded(f"{most:,} connections are open, which is the most; try again in 5 s", 5.0)
            )
        elif self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timers()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether the connection waits for a request."""
        return not self._is_reading and not _is_answered(self.cycle)

    def _close_an_idle_one(self) -> bool:
        """Close the connection that has waited longest for a request; False if there is none."""
        waiting = [
            (each.timeout_keep_alive_task.when(), each)
            for each in self.connections
            if isinstance(each, HttpProtocol) and each is not self and each.is_idle
            if each.timeout_keep_alive_task is not None and not each.transport.is_closing()
        ]
        if not waiting:
            return False
        min(waiting, key=lambda pair: pair[0])[1].transport.close()
        return True

    # -- reading ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._is_refused:
            return
        if self._is_in_head:
            self._head_bytes += len(data)
        else:
            self._n_body_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")
        else:
            if self._is_in_head and self._head_bytes > self.limits.head_bytes:
                self._refuse_head()
            elif self._is_reading and self._timer is None:  # the rest did not come at once
                after_s = self.limits.head_s if self._is_in_head else self.limits.check_s
                self._timer = self.loop.call_later(after_s, self._look)

    def on_message_begin(self) -> None:
        """The first byte of a head: line breaks before it, which some clients send, are none."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._is_reading = self._is_in_head = True

    def on_headers_complete(self) -> None:
        """The end of a head."""
        self._is_in_head, self._head_bytes = False, 0
        n_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if n_bytes > self.limits.head_bytes:
            self._refuse_head()
            raise RequestError("the head is too long")  # ends the parser's work
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.transport = cast(asyncio.Transport, HeadWithBody(self.transport, self.loop))
            scope = cast(Scope, self.cycle.scope)
            self.cycle.scope = cast("HTTPScope", with_pieces(scope, CyclePieces(self.cycle)))
        self._stop_reading_timer()
        self._n_body_bytes = 0

    def on_message_complete(self) -> None:
        """The end of a body."""
        self._stop_reading_timer()
        self._is_reading, self._is_in_head = False, True
        super().on_message_complete()

    def _look(self) -> None:
        """End the connection if a head or a body is too slow."""
        limits = self.limits
        self._timer = None
        if not self._is_reading or self.transport.is_closing():
            return
        if self._is_in_head and _is_answered(self.cycle):  # an earlier request
            self._timer = self.loop.call_later(limits.head_s, self._look)
            return
        if self._is_in_head:
            self._refuse(TooSlow(f"The head of the request took more than {limits.head_s:.0f} s"))
            return
        n_wanted = limits.check_s * limits.body_bytes_per_s
        is_slow = self._n_body_bytes < n_wanted and not self.flow.read_paused
        if is_slow and (self.cycle.response_complete or not self.cycle.response_started):
            self._refuse(
                TooSlow(
                    f"The body came with less than {limits.body_bytes_per_s:,} bytes a second for "
                    f"{limits.check_s:.0f} s; send it faster"
                )
            )
            return
        self._n_body_bytes = 0
        self._timer = self.loop.call_later(limits.check_s, self._look)

    def _refuse_head(self) -> None:
        most = self.limits.head_bytes
        self._refuse(
            HeadTooLarge(f"The URL and the headers have more than {most:,} bytes, the most taken here")
        )

    # -- writing ---------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer is written."""
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self.limits.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    # -- offers and refusals ---------------------------------------------------------------------

    def _should_upgrade(self) -> bool:
        """True for every offer, so that no callback answers the request before it is parsed again."""
        return True

    def _without_offer(self, rest: bytes) -> None:
        """Parse the head again without the offer, then `rest`, the bytes after the head."""
        if self.parser.get_method() == b"CONNECT":  # CONNECT is an offer, whatever its headers are
            self.send_400_response("")
            return
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name not in _OFFER]
        self.parser = httptools.HttpRequestParser(self)
        self._is_in_head, self._head_bytes = True, 0
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP, in one sentence, and close."""
        host, port = self.server or ("127.0.0.1", 8080)
        where = f"{self.scheme or 'http'}://{host}:{port}"
        self._refuse(RequestError(_NOT_HTTP.format(where=where)))

    def _refuse(self, error: Exception) -> None:
        """Answer with an OpenAI error object, unless an answer has begun, and close."""
        if self.transport.is_closing() or self._is_refused:
            return
        self._is_refused = True
        self._stop_timers()
        own_id, status = self._request_id(), error_kind(error).status
        body = msgspec.json.encode(error_body(error))
        retry = b"retry-after: 5\r\n" if isinstance(error, Overloaded) else b""
        head = (
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\n%s"
            b"x-request-id: %s\r\ncontent-length: %d\r\n\r\n"
            % (status, _REASONS[status], retry, own_id.encode(), len(body))
        )
        address = client_address({"client": self.client})
        log_refusal(status, {"request_id": own_id, "client": address, "error": str(error)})
        cycle, is_answering = self.cycle, _is_answered(self.cycle)
        is_in_body = self._is_reading and not self._is_in_head
        has_answer = is_in_body and cycle is not None and cycle.response_complete
        if not (is_answering and cycle.response_started) and not has_answer:
            self.transport.write(head + body)
        if is_answering:
            cycle.disconnected = True
            cycle.message_event.set()
        if isinstance(error, Overloaded):
            self.transport.close()
        else:
            self._close_after_reading()

    def _request_id(self) -> str:
        """The id of the request whose head was read, else a new one."""
        headers: list[tuple[bytes, bytes]] = getattr(self, "headers", None) or []  # before a head: None
        return request_id(next((v.decode("latin-1") for n, v in headers if n == b"x-request-id"), ""))

    def _close_after_reading(self) -> None:
        """Close, but first drop bytes that come: unread ones would reset the connection before its answer."""
        if self.transport.is_closing():
            return
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)

    def _stop_timers(self) -> None:
        self._stop_reading_timer()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _stop_reading_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class HeadWithBody:
    """A cycle's transport, which writes the head of an answer together with the first piece of its body.

    Each write wakes the client, which may then run in the server's place: a millisecond on busy processors.
    A head that no piece follows is written when the event loop has run what is ready.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._is_first = True
        self._held = b""

    def write(self, data: bytes) -> None:
        """Write, or hold what is written first."""
        if self._is_first:
            self._is_first, self._held = False, data
            self._loop.call_soon(self._write_held)
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._transport.write(data)

    def close(self) -> None:
        """Close after all that was written."""
        self._write_held()
        self._transport.close()

    def is_closing(self) -> bool:
        """As the transport says."""
        return self._transport.is_closing()

    def _write_held(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)


class CyclePieces:
    """Writes pieces of the body that uvicorn's `cycle` sends in chunks."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle

    @property
    def is_ready(self) -> bool:
        """Whether the next piece may be written: the client is there and reads."""
        cycle = self._cycle
        ends = cycle.disconnected or cycle.response_complete
        return bool(cycle.chunked_encoding) and not (ends or cycle.flow.write_paused)

    def write(self, piece: bytes) -> None:
        """Write a piece, which is not empty."""
        self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))


def _is_answered(cycle: RequestResponseCycle | None) -> bool:
    """Whether the answer to a request is on its way."""
    return cycle is not None and not cycle.response_complete
