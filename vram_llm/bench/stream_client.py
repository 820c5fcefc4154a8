"""A light HTTP/1.1 client: one request at a time on each connection, each piece of a body with its time.

httpx spends some 100 microseconds on each piece of a stream, and 256 streams of 50 tokens a second have
12,800 pieces a second. This one leaves the parsing to httptools.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from vram_llm.errors import ServerUnreachable

Sink = Callable[[bytes, float], None]
"""Takes a piece of a body, and the time (time.perf_counter) at which it was read from the socket."""

_CONNECT_S = 10.0
_MOST_CONNECTING = 32  # a server's queue of new connections is short


@dataclass(frozen=True, slots=True)
class HttpReply:
    """An answer's status and body. The body is empty if it went to a sink."""

    status: int
    body: bytes


class ConnectionClosed(ServerUnreachable):
    """The server closed the connection before its answer was complete. `had_begun`: some of it had come."""

    def __init__(self, message: str, *, had_begun: bool) -> None:
        super().__init__(message)
        self.had_begun = had_begun


class StreamClient:
    """Connections to the server at `url`, kept open between requests. Paths are added to the URL's own.

    `headers` are sent with each request. `insecure` accepts any certificate.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, insecure: bool = False) -> None:
        parts = urlsplit(url)
        self._prefix = parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{parts.netloc}{self._prefix}"
        self._host = parts.hostname or "127.0.0.1"
        self._ssl = _ssl_context(insecure=insecure) if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._fixed = f"Host: {parts.netloc}\r\n" + "".join(
            f"{name}: {headers[name]}\r\n" for name in headers
        )
        self._idle: list[_Connection] = []

    async def request(self, method: str, path: str, body: bytes = b"", sink: Sink | None = None) -> HttpReply:
        """Send a request and read its answer. The body of an answer with status 200 goes to `sink`, if given.

        Raises ServerUnreachable.
        """
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._fixed}Content-Length: {len(body)}\r\n"
        kind = "Content-Type: application/json\r\n" if body else ""
        message = f"{head}{kind}\r\n".encode() + body
        if (connection := self._take_idle()) is not None:
            try:
                return await self._exchange(connection, message, sink)
            except ConnectionClosed as error:
                if error.had_begun:
                    raise
        return await self._exchange(await self._connect(), message, sink)

    async def open(self, n_connections: int) -> None:
        """Open connections, so that no request of the load waits for one. Raises ServerUnreachable."""
        while (missing := n_connections - len(self._idle)) > 0:
            at_once = min(missing, _MOST_CONNECTING)
            self._idle += await asyncio.gather(*(self._connect() for _ in range(at_once)))

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _exchange(self, connection: "_Connection", message: bytes, sink: Sink | None) -> HttpReply:
        try:
            reply = await connection.exchange(message, sink)
        except BaseException:  # a cancelled request too: the rest of its answer would follow
            connection.close()
            raise
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return reply

    def _take_idle(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, connection = await loop.create_connection(
                    _Connection, self._host, self._port, ssl=self._ssl
                )
        except ssl.SSLCertVerificationError as error:
            raise ServerUnreachable(
                f"the certificate of {self.url} is not trusted: {error.verify_message}; $SSL_CERT_FILE names "
                "the authority's, and --insecure takes any"
            ) from None
        except (OSError, TimeoutError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ServerUnreachable(
                f"no server answers at {self.url}: {why or 'no connection in 10 s'}"
            ) from None
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[HttpReply] | None = None
        self._sink: Sink | None = None
        self._body = bytearray()
        self._unparsed: list[tuple[bytes, float]] = []
        self._loop = asyncio.get_running_loop()
        self._read_at = 0.0
        self._status = 0
        self._ends_with_connection = False
        self.is_reusable = True

    async def exchange(self, message: bytes, sink: Sink | None) -> HttpReply:
        self._done = self._loop.create_future()
        self._sink, self._status = sink, 0
        self._body.clear()
        self._transport.write(message)
        return await self._done

    def close(self) -> None:
        self.is_reusable = False
        self._transport.close()

    # -- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Take the time, and parse later: an engine's step brings a piece to each stream at once."""
        if not self._unparsed:
            self._loop.call_soon(self._parse)
        self._unparsed.append((data, time.perf_counter()))

    def _parse(self) -> None:
        unparsed, self._unparsed = self._unparsed, []
        try:
            for data, self._read_at in unparsed:
                self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionClosed(f"the server's answer is not HTTP/1.1: {error}", had_begun=True))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._parse()
        self.is_reusable = False
        if self._ends_with_connection and exc is None:
            self.on_message_complete()
        had_begun = self._status > 0
        self._fail(
            ConnectionClosed(
                "the server closed the connection "
                + ("before the end of the answer" if had_begun else "without an answer"),
                had_begun=had_begun,
            )
        )

    # -- httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._ends_with_connection = False

    def on_message_begin(self) -> None:
        self._ends_with_connection = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self.is_reusable = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self._sink is not None and self._status == 200:
            self._sink(body, self._read_at)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(HttpReply(self._status, bytes(self._body)))

    def _fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)


def _ssl_context(*, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
