"""The socket that the server listens on."""

import asyncio
import socket

import pytest

from vram_llm.errors import PortInUse
from vram_llm.server.sockets import listen, listen_all


def test_several_addresses_have_one_port() -> None:
    socks = listen_all("127.0.0.1, 127.0.0.2", 0)
    try:
        (first, port), second = (sock.getsockname() for sock in socks)
        assert (first, second) == ("127.0.0.1", ("127.0.0.2", port))
    finally:
        for sock in socks:
            sock.close()


def test_where_one_address_is_taken_none_is_kept() -> None:
    with listen("127.0.0.2", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"127\.0\.0\.2:{port}"):
            listen_all("127.0.0.1,127.0.0.2", port)
    listen("127.0.0.1", port).close()


async def test_small_writes_leave_at_once() -> None:
    """Else each waits for the client's acknowledgement of the one before it, up to 40 ms."""
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        seen.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with listen("127.0.0.1", 0) as sock:
        async with await asyncio.start_server(accept, sock=sock):
            _, writer = await asyncio.open_connection(*sock.getsockname())
            assert await asyncio.wait_for(seen, 10)
            writer.close()
