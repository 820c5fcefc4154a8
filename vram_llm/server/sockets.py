"""The server's sockets. They are bound before slow work begins."""

import contextlib
import errno
import socket
from collections.abc import Iterable

from vram_llm.errors import PortInUse
from vram_llm.server.port_holder import find_holder

_BACKLOG = 2048  # as uvicorn's
_PORTS_TRIED = 100
_FIRST_FOR_ALL, _LAST_PORT = 1024, 65_535  # below the first, only an administrator may listen


PORT_FLAG = "--port {port}"


def bind(host: str, port: int, flag: str = PORT_FLAG) -> socket.socket:
    """A socket bound to `host` and `port`, which does not listen yet. Raises PortInUse.

    `flag` is the option for another port, shown in the error.
    """
    try:
        return _bound(host, port)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host like "a..b"
        raise PortInUse(_refusal(error, host, port, host, flag)) from error


def bind_all(hosts: str, port: int) -> list[socket.socket]:
    """Sockets bound to the same `port` of `hosts`, a list with commas. Raises PortInUse."""
    socks: list[socket.socket] = []
    first_port = port
    for host in (part.strip() for part in hosts.split(",")):
        try:
            socks.append(_bound(host, port))
        except (OSError, UnicodeError) as error:
            close_all(socks)
            raise PortInUse(_refusal(error, host, first_port or port, hosts)) from error
        port = socks[0].getsockname()[1]
    return socks


def start_listening(socks: Iterable[socket.socket]) -> None:
    """Let clients connect. Raises PortInUse if another program began to listen after `bind`."""
    for sock in socks:
        try:
            sock.listen(_BACKLOG)
        except OSError as error:
            host, port = sock.getsockname()[:2]
            raise PortInUse(_refusal(error, host, port, host)) from error


def close_all(socks: Iterable[socket.socket]) -> None:
    """Close all sockets."""
    for sock in socks:
        sock.close()


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # TCP by name: asyncio sets TCP_NODELAY only on sockets of this protocol (_set_nodelay)
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with contextlib.ExitStack() as on_failure:
        on_failure.push(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        on_failure.pop_all()
    return sock


def _refusal(error: OSError | UnicodeError, host: str, port: int, hosts: str, flag: str = PORT_FLAG) -> str:
    """Why `port` of `host` is not available, and what to try."""
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        where = f"{port} of {host}" if "," in hosts else f"{port}"
        return f"{where} is taken by {find_holder(str(address), port)}; {_free_port_hint(hosts, port, flag)}"
    reason = getattr(error, "strerror", None) or error
    if isinstance(error, PermissionError):
        return f"cannot listen on {host}:{port}: {reason}; {_free_port_hint(hosts, _FIRST_FOR_ALL, flag)}"
    return f"cannot listen on {host}:{port}: {reason}; give an address of this computer, 127.0.0.1 for one"


def _free_port_hint(hosts: str, port: int, flag: str) -> str:
    """The option for the next port that is free on all `hosts`."""
    for candidate in range(port + 1, min(port + _PORTS_TRIED, _LAST_PORT) + 1):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for host in hosts.split(","):
                stack.enter_context(_bound(host.strip(), candidate))
            return f"`{flag.format(port=candidate)}` is free"
    return f"`{flag.format(port=0)}` takes any free one"
