"""Host names that the server accepts, and addresses that need an API key."""

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from vram_llm.errors import KeyRequired
from vram_llm.machine.worker_spec import is_loopback
from vram_llm.server.config import ServerConfig
from vram_llm.server.errors import WrongHost

_USUAL = frozenset({"127.0.0.1", "localhost"})


class HostCheckMiddleware:
    """ASGI middleware that accepts `names` and loopback addresses as host; others raise WrongHost.

    A web page can point a host name of its own at 127.0.0.1 (DNS rebinding) and then read this server's
    answers. Such requests carry that name in their Host header.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_ours(_header(scope)):
            host = _host(_header(scope))
            raise WrongHost(
                f"This server does not answer to the host name {host!r}; use 127.0.0.1 or localhost, "
                "or start it with --allowed-host"
            )
        await self._app(scope, receive, send)

    def _is_ours(self, header: str) -> bool:
        name, _, port = header.partition(":")
        if name in _USUAL and (port.isdecimal() or not port):
            return True  # most requests, without parsing the header as a part of a URL
        host = _host(header)
        return host in self._names or is_loopback(host)


def check_exposure(socks: Iterable[socket.socket], config: ServerConfig) -> None:
    """Raises KeyRequired if other computers can reach a socket, and neither a key nor `insecure` is given."""
    if config.needs_key or config.insecure:
        return
    for sock in socks:
        if not is_loopback(sock.getsockname()[0]):
            raise KeyRequired(
                f"other computers can reach --host {config.host}, and no API key is set: set "
                "$VRAM_LLM_API_KEY or give --api-key, or let everybody in with --insecure"
            )


def _header(scope: Scope) -> str:
    """The Host header."""
    return next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")


def _host(header: str) -> str:
    """The Host header's name in lower case, without the port."""
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return ""
