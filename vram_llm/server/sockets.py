"""Sockets to listen on, bound before anything slow begins."""

import contextlib
import socket

from vram_llm.errors import PortInUse


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to `host` and `port`, before anything slow is begun. Raises PortInUse."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # named, for asyncio sends small writes at once only where it knows that it is TCP (_set_nodelay)
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        with contextlib.ExitStack() as on_failure:
            on_failure.push(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            on_failure.pop_all()
    except (OSError, UnicodeError) as error:  # the latter for a host like "a..b"
        reason = getattr(error, "strerror", None) or error
        raise PortInUse(f"cannot listen on {host}:{port}: {reason}; choose another port") from error
    return sock


def listen_all(hosts: str, port: int) -> list[socket.socket]:
    """Sockets bound to the same `port` of `hosts`, addresses with commas between. Raises PortInUse."""
    socks: list[socket.socket] = []
    try:
        for host in hosts.split(","):
            socks.append(listen(host.strip(), port))
            port = socks[0].getsockname()[1]
    except PortInUse:
        for sock in socks:
            sock.close()
        raise
    return socks
