"""The socket that the server listens on."""

import asyncio
import socket

from vram_llm.server.run import listen


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
