"""Attacks by the way in which bytes are sent and read."""

import asyncio
import contextlib

from bench.attacks.raw import post, send, tally
from bench.attacks.texts import CHAT, COMPLETIONS

_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_STREAM = {"prompt": "a", "max_tokens": 4000, "stream": True, "ignore_eos": True}


async def header_floods(port: int) -> str:
    """200 connections with headers of a megabyte."""
    data = _HEAD + b"X-Flood: " + b"a" * (1 << 20) + b"\r\n\r\n"
    return tally(await asyncio.gather(*(send(port, data) for _ in range(200))))


async def slow_bodies(port: int) -> str:
    """200 connections that send a byte of their body each second."""
    parts = [_HEAD + b"Content-Length: 100000\r\n\r\n", *[b" "] * 20]
    return tally(await asyncio.gather(*(send(port, *parts, pause_s=1.0) for _ in range(200))))


async def large_bodies(port: int) -> str:
    """100 connections that send 30 MiB each and not the last byte."""
    parts = [_HEAD + b"Content-Length: 31457281\r\n\r\n", *[b" " * (1 << 20)] * 30]
    return tally(await asyncio.gather(*(send(port, *parts) for _ in range(100))))


async def slow_readers(port: int) -> str:
    """32 streams that are never read."""
    writers = []
    for _ in range(32):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(post(COMPLETIONS, _STREAM))
        writers.append(writer)
    await asyncio.sleep(8)  # the client does not read
    for writer in writers:
        writer.transport.abort()
    return "not read"


async def disconnects(port: int) -> str:
    """300 prompts of 64 KiB whose clients leave at once."""
    for _ in range(300):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(COMPLETIONS, {**_STREAM, "prompt": "word " * 13_000}))
        await writer.drain()
        await asyncio.sleep(0.005)  # the client leaves early
        writer.transport.abort()
    return "left"


async def many_connections(port: int) -> str:
    """3,000 idle connections."""
    writers = []
    for _ in range(3000):
        with contextlib.suppress(OSError):
            writers.append((await asyncio.open_connection("127.0.0.1", port))[1])
    await asyncio.sleep(2)  # the connections stay idle
    for writer in writers:
        writer.transport.abort()
    return f"{len(writers):,} open"


async def smuggling(port: int) -> str:
    """Two lengths, a length and chunks, chunks of a bad size, spaces before colons: 50 times each."""
    inner = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    heads = [
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ]
    return tally(
        await asyncio.gather(*(send(port, _HEAD + head + inner) for head in heads for _ in range(50)))
    )


async def idle_and_streams(port: int) -> str:
    """1,000 idle connections and 64 streams at once: no error but 429."""
    idle = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(1000)]
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 60, "stream": True}
    answers = await asyncio.gather(*(send(port, post(CHAT, body)) for _ in range(64)))
    closed = sum(writer.transport.is_closing() for writer in idle)
    for writer in idle:
        writer.transport.abort()
    return f"{tally(answers)}; idle ones closed: {closed}"
