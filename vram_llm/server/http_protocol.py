"""HTTP/1.1 over a socket: uvicorn's httptools protocol, with fixes for two kinds of clients.

A request that offers another protocol (Java's HttpClient sends `Upgrade: h2c` with every first request over
http://) is answered as HTTP/1.1; RFC 9110, section 7.8, allows that. On such an offer httptools stops after
the head and takes the body for the other protocol. A new parser therefore reads the head without the offer,
then the body. Bytes that are not HTTP/1.1 get an OpenAI error object.
"""

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vram_llm.errors import RequestError
from vram_llm.server.errors import error_body

_OFFER = frozenset({b"upgrade", b"http2-settings", b"connection"})
_NOT_HTTP = (
    "This is not an HTTP/1.1 request: use http:// (not https://) and HTTP/1.1, for example {where}/v1/models"
)


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _should_upgrade(self) -> bool:
        """True for every offer, so that no callback answers the request before it is parsed again."""
        return True

    def _without_offer(self, rest: bytes) -> None:
        """Parse the head again without the offer, then `rest`, the bytes after the head."""
        if self.parser.get_method() == b"CONNECT":  # CONNECT is an offer, whatever its headers are
            self.send_400_response("")
            return
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + self._version()]
        lines += [name + b": " + value for name, value in self.headers if name not in _OFFER]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _version(self) -> bytes:
        return self.parser.get_http_version().encode()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP, in one sentence, and close."""
        host, port = self.server or ("127.0.0.1", 8080)
        body = msgspec.json.encode(
            error_body(RequestError(_NOT_HTTP.format(where=f"{self.scheme or 'http'}://{host}:{port}")))
        )
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        self.transport.write(head + body)
        self.transport.close()
