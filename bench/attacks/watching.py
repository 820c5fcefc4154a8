"""What an innocent client notices: its stream's gaps, /health, and the memory of the processes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise

import psutil

from bench.load import Stream, complete

_LOOK_EVERY_S = 0.05
_MIB = 1 << 20


@dataclass
class Watched:
    """Times of the stream's chunks, and of answers of /health; `errors` of either."""

    stream: Stream = field(default_factory=lambda: Stream(0.0))
    health: list[tuple[float, float]] = field(default_factory=list)  # when, seconds
    errors: list[str] = field(default_factory=list)

    def gap_ms(self, start: float, end: float) -> float:
        """The largest gap between chunks that has a part between two times."""
        times = [*self.stream.chunks, end]
        gaps = [b - a for a, b in pairwise(times) if b > start and a < end]
        return 1000 * max(gaps, default=end - start)

    def health_ms(self, start: float, end: float) -> float:
        """The slowest answer of /health that was asked for between two times."""
        return 1000 * max((took for when, took in self.health if start <= when <= end), default=0.0)


@contextlib.asynccontextmanager
async def watching(port: int) -> AsyncIterator[Watched]:
    """Streams and asks /health until the block ends."""
    watched = Watched()
    tasks = [asyncio.create_task(_stream(port, watched)), asyncio.create_task(_ask(port, watched))]
    try:
        yield watched
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _stream(port: int, watched: Watched) -> None:
    try:
        await complete(port, list(range(300, 316)), 200_000, into=watched.stream)
        watched.errors.append("the stream ended")
    except (SystemExit, OSError) as error:
        watched.errors.append(str(error)[:200])


async def _ask(port: int, watched: Watched) -> None:
    while True:
        asked = time.perf_counter()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if not answer.startswith(b"HTTP/1.1 200"):
                watched.errors.append(f"/health: {answer[:60]!r}")
        except OSError as error:
            watched.errors.append(f"/health: {error}")
        watched.health.append((asked, time.perf_counter() - asked))
        await asyncio.sleep(_LOOK_EVERY_S)  # between two looks


def memory_mib(port: int) -> tuple[float, float]:
    """Resident MiB of the server at `port`, and of its other processes."""
    server = next(
        psutil.Process(c.pid)
        for c in psutil.net_connections("tcp")
        if c.pid and c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port
    )
    others = 0
    for child in server.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            others += child.memory_info().rss
    return server.memory_info().rss / _MIB, others / _MIB
