"""The socket that the server listens on."""

import asyncio
import os
import re
import socket

import pytest

from tests.patience import soon
from tests.workers import free_ports
from vram_llm.errors import PortInUse
from vram_llm.server import port_holder
from vram_llm.server.sockets import bind, bind_all, start_listening


@pytest.fixture(autouse=True)
def short_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sockets here take connections and never answer: the program asks each of them twice what it is."""
    monkeypatch.setattr(port_holder, "_ASK_S", 0.05)


def test_several_addresses_have_one_port() -> None:
    socks = bind_all("127.0.0.1, 127.0.0.2", 0)
    try:
        (first, port), second = (sock.getsockname() for sock in socks)
        assert (first, second) == ("127.0.0.1", ("127.0.0.2", port))
    finally:
        for sock in socks:
            sock.close()


def test_no_address_is_kept_if_one_is_taken() -> None:
    (port,) = free_ports(1)  # on every address
    with bind("127.0.0.2", port) as taken:
        taken.listen()
        with pytest.raises(PortInUse, match=rf"^{port} of 127\.0\.0\.2 is taken by .*pid {os.getpid()}"):
            bind_all("127.0.0.1,127.0.0.2", port)
    bind("127.0.0.1", port).close()


def test_the_port_named_is_free() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"^{port} is taken") as caught:
            bind("127.0.0.1", port, "--listen 127.0.0.1:{port}")
    free = re.search(r"`--listen 127\.0\.0\.1:(\d+)` is free", str(caught.value))
    assert free is not None
    bind("127.0.0.1", int(free[1])).close()


def test_the_second_of_two_programs_to_listen_is_refused() -> None:
    """Linux lets both bind: neither listens yet, and both allow the address to be used again."""
    with bind("127.0.0.1", 0) as first, bind("127.0.0.1", first.getsockname()[1]) as second:
        start_listening([first])
        with pytest.raises(PortInUse, match=rf"pid {os.getpid()}"):
            start_listening([second])


def test_an_address_of_another_computer() -> None:
    with pytest.raises(
        PortInUse, match=r"cannot listen on 192\.0\.2\.1:0: .*; give an address of this computer"
    ):
        bind("192.0.2.1", 0)


async def test_small_writes_leave_at_once() -> None:
    """Else each waits for the client's acknowledgement of the one before it, up to 40 ms."""
    seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        seen.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with bind("127.0.0.1", 0) as sock:
        async with await asyncio.start_server(accept, sock=sock):
            _, writer = await asyncio.open_connection(*sock.getsockname())
            assert await soon(seen)
            writer.close()
